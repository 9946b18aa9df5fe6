//! CRC-64/NVME by its definition, bit by bit: an opinion of our own on what the S3 client sends.
//!
//! Source: NVM Express NVM Command Set Specification 1.0, 5.2.1.3.4; check value as in its
//! catalogue of test cases.

use data_encoding::BASE64;

/// Reflected.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// As `x-amz-checksum-crc64nvme` has it: big-endian, in Base64.
#[must_use]
pub fn crc64nvme(body: &[u8]) -> String {
    let rest = body.iter().fold(!0, |rest, byte| {
        (0..8).fold(rest ^ u64::from(*byte), |rest, _| (rest >> 1) ^ if rest & 1 == 1 { POLYNOMIAL } else { 0 })
    });
    BASE64.encode(&(!rest).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value() {
        assert_eq!(crc64nvme(b"123456789"), BASE64.encode(&0xae8b_1486_0a79_9888_u64.to_be_bytes()));
        assert_eq!(crc64nvme(b""), "AAAAAAAAAAA=");
    }
}
