//! Which system calls a worker cannot make, by seccomp: those that reach into other processes, into
//! the kernel or into other namespaces; and, for a drill, sockets of any kind but unix.

use std::collections::BTreeMap;

use lifeboat_base::{Class, Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

/// Refused whatever their arguments.
const REFUSED: [i64; 45] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    // These open sockets without `socket`.
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
];

/// New namespaces of users, mounts, processes, networks, names, messages and control groups.
const NEW_NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWCGROUP,
];

/// The bit that makes a call one of x32, whose calls are the same ones.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// A filter that allows everything. Only a kernel without filters refuses it.
const ALLOW_ALL: [sock_filter; 1] =
    [sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Confines this thread. Returns whether the kernel can.
pub(super) fn confine(network: bool) -> Result<bool> {
    let mut refused: Rules = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    refused.insert(libc::SYS_unshare, Vec::new());
    let namespaces = NEW_NAMESPACES.map(|flag| {
        let flag = u64::from(flag.cast_unsigned());
        rule(SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)
    });
    refused.insert(libc::SYS_clone, namespaces.into_iter().collect::<Result<_>>()?);
    if !network {
        let unix = u64::from(libc::AF_UNIX.cast_unsigned());
        refused.insert(libc::SYS_socket, vec![rule(SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, unix)?]);
    }
    // Its flags are in memory, where no filter looks. Whoever meets this answer uses clone.
    let unknown = Rules::from([(libc::SYS_clone3, Vec::new())]);
    apply(&[filter(unknown, libc::ENOSYS)?, filter(refused, libc::EPERM)?])
}

/// Applies all of `filters`, unless the kernel knows no filters: then returns `false`.
fn apply(filters: &[BpfProgram]) -> Result<bool> {
    let failed = || "cannot shut in the worker by seccomp";
    match apply_filter(&ALLOW_ALL) {
        Err(seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
        {
            return Ok(false);
        }
        applied => applied.context(Class::Failed, failed)?,
    }
    filters.iter().try_for_each(|filter| apply_filter(filter)).context(Class::Failed, failed)?;
    Ok(true)
}

fn rule(length: SeccompCmpArgLen, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let failed = || "the seccomp filter is wrong";
    let condition = SeccompCondition::new(0, length, operator, value).context(Class::Failed, failed)?;
    SeccompRule::new(vec![condition]).context(Class::Failed, failed)
}

fn filter(rules: Rules, errno: i32) -> Result<BpfProgram> {
    let failed = || "the seccomp filter is wrong";
    #[cfg(target_arch = "x86_64")]
    let (rules, architecture) = {
        let x32: Rules = rules.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
        (rules.into_iter().chain(x32).collect::<Rules>(), TargetArch::x86_64)
    };
    #[cfg(target_arch = "aarch64")]
    let architecture = TargetArch::aarch64;
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture).context(Class::Failed, failed)?;
    filter.try_into().context(Class::Failed, failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// In a thread of its own, as no filter can be undone.
    fn applied(filters: Vec<BpfProgram>) -> Result<bool> {
        std::thread::spawn(move || apply(&filters)).join().unwrap()
    }

    #[test]
    fn a_filter_that_the_kernel_refuses_is_an_error() {
        let good = || ALLOW_ALL.to_vec();
        assert!(applied(vec![good()]).unwrap(), "the kernel knows no filters");
        // The kernel answers EINVAL to a code that it does not know, and to what never returns.
        let unknown = vec![sock_filter { code: u16::MAX, jt: 0, jf: 0, k: 0 }];
        let endless = vec![sock_filter { code: (libc::BPF_LD | libc::BPF_IMM) as u16, jt: 0, jf: 0, k: 0 }];
        for filters in [vec![unknown.clone()], vec![good(), unknown], vec![good(), endless]] {
            let refused = applied(filters).unwrap_err();
            assert!(refused.chain().contains("Invalid argument"), "{refused:?}");
        }
    }
}
