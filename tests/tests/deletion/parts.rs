//! What was uploaded in parts: stores may date it earlier than it came.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use lifeboat_tests::s3::{Bucket, Region, moment};
use serde_json::Value;

use crate::{Scene, objects};

/// Writes an object as an upload in parts, of which there is one.
pub(crate) async fn overwrite_in_parts(region: &Region, key: &str, body: &[u8]) {
    let (client, bucket) = (region.client(), region.bucket());
    let upload = client.create_multipart_upload().bucket(bucket).key(key).send().await.unwrap();
    let upload = upload.upload_id().unwrap();
    let part = client.upload_part().bucket(bucket).key(key).upload_id(upload).part_number(1);
    let part = part.body(ByteStream::from(body.to_vec())).send().await.unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(part.e_tag().unwrap()).build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let complete = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(upload);
    complete.multipart_upload(parts).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_in_parts_counts_only_if_it_is_valid() {
    let scene = Scene::set(Bucket::Versioned, "").await;
    scene.back_up(1).await;
    scene.back_up(2).await;
    let all = scene.keys().await;
    let of = |part: &str| all.iter().filter(|key| key.contains(part)).collect::<Vec<_>>();
    let (packs, snapshots) = (of("/packs/"), of("/snapshots/"));
    let newest = &snapshots[snapshots.len() - 2..];
    // Rubbish lies above some objects, as if it had been there before the time.
    for key in packs.iter().take(2).chain(newest) {
        overwrite_in_parts(&scene.region, key, b"rubbish").await;
    }
    // So does a valid object, and rubbish that covers nothing.
    let act = of("/order/")[0];
    let stored = scene.region.client().get_object().bucket(scene.region.bucket()).key(act).send().await.unwrap();
    overwrite_in_parts(&scene.region, act, &stored.body.collect().await.unwrap().into_bytes()).await;
    let junk = format!("vault/datasets/data/packs/00/{}.zst.age", "0".repeat(64));
    overwrite_in_parts(&scene.region, &junk, b"rubbish").await;
    overwrite_in_parts(&scene.region, "vault/root/7.json", b"rubbish").await;
    let before = moment().await;
    // Some of it is deleted, or overwritten once more.
    for key in [packs[1], newest[0], act, &junk, &"vault/root/7.json".to_owned()] {
        scene.hide(key).await;
    }
    scene.overwrite(newest[1], b"other").await;

    let undelete = async |words: &str| -> Value { scene.undelete(&format!("{words} --as-of {before}")).await };
    let done = undelete("--yes").await;
    assert_eq!((objects(&done, "hidden"), objects(&done, "overwritten")), (3, 2), "{done}");
    assert_eq!(done["not_valid"], 2, "{done}");
    assert_eq!(scene.keys().await, all);
    scene.is_whole(2).await;
    let again = undelete("--yes").await;
    assert_eq!((objects(&again, "hidden"), objects(&again, "overwritten")), (0, 0), "{again}");
    assert_eq!(again["not_valid"], 2, "{again}");
}
