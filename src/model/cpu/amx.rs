//! AMX: products of bf16 tiles, by inline assembly.

use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, _xgetbv};
use std::sync::OnceLock;

/// Whether AMX tiles and bf16 products are there and the operating system lets this process use them; asks it on the
/// first call.
pub(crate) fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| detected() && permitted())
}

fn detected() -> bool {
    const TILES: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    const STATE: u64 = 0b11 << 17;
    #[target_feature(enable = "xsave")]
    fn state() -> u64 {
        // SAFETY: the caller saw that the operating system enabled xsave, which `is_x86_feature_detected` includes.
        unsafe { _xgetbv(0) }
    }
    if __get_cpuid_max(0).0 < 7 || !std::arch::is_x86_feature_detected!("xsave") {
        return false;
    }
    // SAFETY: xsave was just detected.
    __cpuid_count(7, 0).edx & (TILES | BF16) == TILES | BF16 && unsafe { state() } & STATE == STATE
}

/// Linux keeps the tiles' large state from processes that have not asked for it.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this call takes two integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
