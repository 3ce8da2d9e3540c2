//! AMX: products of bf16 tiles, by inline assembly.

use super::bf16::PairProduct;
use std::arch::asm;
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

/// Pairs of k per tile.
const PAIRS: usize = 16;
/// Tiles of k over which two panels stay in the first-level cache.
const BLOCK_TILES: usize = 20;

/// What `ldtilecfg` reads: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Rows of pairs times panels of pairs; see [`super::bf16::tile_products`].
///
/// # Safety
/// `usable` said yes; `p.a` and `c` hold a multiple of 16 rows, `p.w` all panels; the pairs are whole tiles.
pub(crate) unsafe fn multiply(p: PairProduct<'_>, c: &mut [f32]) {
    let (row_tiles, tiles) = (p.rows.div_ceil(16), p.pairs / PAIRS);
    let parts = tiles.div_ceil(BLOCK_TILES);
    // SAFETY: the configuration is a valid one for palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
    if tiles == 0 {
        c[..row_tiles * 16 * p.panels * 16].fill(0.0);
    }
    for part in 0..parts {
        let from = tiles * part / parts;
        let count = tiles * (part + 1) / parts - from;
        for panel in (0..p.panels).step_by(2) {
            for row_tile in (0..row_tiles).step_by(2) {
                // Where there is no second panel or row tile the first one is taken twice, and its results are
                // written twice, the same.
                let second_panel = if panel + 1 < p.panels { 1 } else { 0 };
                let second_row = if row_tile + 1 < row_tiles { 16 } else { 0 };
                // SAFETY: the rows `row_tile * 16 ..` and panels are in the bounds that the caller vouches for.
                unsafe {
                    let a = p.a.as_ptr().add(row_tile * 16 * p.pairs + from * PAIRS);
                    let w = p.w.as_ptr().add(panel * p.pairs + from * PAIRS);
                    let c = c.as_mut_ptr().add(row_tile * 16 * p.panels * 16 + panel * 16);
                    let block = TwoByTwo {
                        a: [a, a.add(second_row * p.pairs)],
                        a_stride: p.pairs * 4,
                        w: [w, w.add(second_panel * p.pairs)],
                        c: [c, c.add(second_row * p.panels * 16)],
                        second_column: second_panel * 64,
                        c_stride: p.panels * 64,
                        tiles: count,
                    };
                    block.run(part == 0);
                }
            }
        }
    }
    // SAFETY: gives the tiles' state back, so that it need not be saved when threads switch.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Two tiles of rows times two of columns: four sums in registers, each loaded tile used twice.
struct TwoByTwo {
    a: [*const u32; 2],
    /// Bytes between rows.
    a_stride: usize,
    w: [*const [u32; 16]; 2],
    c: [*mut f32; 2],
    /// Bytes from the first columns to the second.
    second_column: usize,
    /// Bytes between rows.
    c_stride: usize,
    /// Tiles of k, at least one.
    tiles: usize,
}

impl TwoByTwo {
    /// Assigns, or adds to what is there.
    ///
    /// # Safety
    /// The tiles are configured; 16 rows of `tiles * 64` bytes at each of `a`, `tiles` KiB at each of `w`, and 16 rows of
    /// 64 bytes at each of `c` and beside it are there.
    #[inline(always)]
    unsafe fn run(&self, fresh: bool) {
        // SAFETY: reads and writes what the caller vouches for, and the tile registers, which nothing else uses.
        unsafe {
            if fresh {
                asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
            } else {
                asm!(
                    "tileloadd tmm0, [{c0} + {stride}]",
                    "tileloadd tmm1, [{c1} + {stride}]",
                    "tileloadd tmm2, [{c2} + {stride}]",
                    "tileloadd tmm3, [{c3} + {stride}]",
                    c0 = in(reg) self.c[0],
                    c1 = in(reg) self.c[0].byte_add(self.second_column),
                    c2 = in(reg) self.c[1],
                    c3 = in(reg) self.c[1].byte_add(self.second_column),
                    stride = in(reg) self.c_stride,
                    options(nostack, readonly),
                );
            }
            asm!(
                "2:",
                "tileloadd tmm4, [{a0} + {stride}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tileloadd tmm5, [{a1} + {stride}]",
                "tileloadd tmm7, [{w1} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 64",
                "add {a1}, 64",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {tiles}",
                "jnz 2b",
                a0 = inout(reg) self.a[0] => _,
                a1 = inout(reg) self.a[1] => _,
                w0 = inout(reg) self.w[0] => _,
                w1 = inout(reg) self.w[1] => _,
                stride = in(reg) self.a_stride,
                line = in(reg) 64_usize,
                tiles = inout(reg) self.tiles => _,
                options(nostack, readonly),
            );
            asm!(
                "tilestored [{c0} + {stride}], tmm0",
                "tilestored [{c1} + {stride}], tmm1",
                "tilestored [{c2} + {stride}], tmm2",
                "tilestored [{c3} + {stride}], tmm3",
                c0 = in(reg) self.c[0],
                c1 = in(reg) self.c[0].byte_add(self.second_column),
                c2 = in(reg) self.c[1],
                c3 = in(reg) self.c[1].byte_add(self.second_column),
                stride = in(reg) self.c_stride,
                options(nostack),
            );
        }
    }
}
