//! AMX: products of bf16 tiles, by inline assembly.

use super::pairs::{Layout, PairRows};
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, _xgetbv};
use std::ops::Range;
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

/// Tiles of k in a part, so that what is used again stays in the first-level cache (48 KiB, shared by two threads).
///
/// The sums of 2 x 2 tiles stay in registers over a part, in which every tile product (16 cycles) takes 1 KiB of loads.
/// Half of that is a pair of panels, which the whole part uses again for every pair of row tiles, 2 KiB x tiles of it:
/// 18 KiB; between two uses 4 KiB of sums pass through the cache, and the rows are read past it (see [`Steps`]). Longer
/// parts push the panels out: then 1 KiB per tile product comes from the second level, 64 bytes a cycle, more than that
/// gives. Shorter parts read and write the sums more often, 1 KiB each per product of `PART_TILES` tiles.
const PART_TILES: usize = 9;
/// Up to so many row tiles panels are used too seldom for parts to pay: sums stay in registers over all of k.
const FEW_ROW_TILES: usize = 6;

/// The layout of rows that [`multiply`] wants.
pub(crate) fn layout(rows: usize, inner: usize) -> Layout {
    let few = rows.div_ceil(16) <= FEW_ROW_TILES;
    Layout::Tiles { parts: if few { 1 } else { inner.div_ceil(32).div_ceil(PART_TILES).max(1) } }
}

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

/// Rows times panels of pairs.
pub(crate) struct TileProduct<'a> {
    /// In the layout of [`layout`].
    pub a: &'a PairRows,
    /// Beginning at a multiple of 16.
    pub rows: Range<usize>,
    /// From the first panel on.
    pub w: &'a [[u32; 16]],
    pub panels: usize,
}

impl TileProduct<'_> {
    /// Values that [`multiply`] needs for sums.
    pub(crate) fn scratch(rows: usize, panels: usize) -> usize {
        rows.next_multiple_of(16) * panels * 16
    }
}

/// Where a product goes: row-major, the first row's first value at `values`, rows `stride` values apart.
pub(crate) struct Output {
    pub values: *mut f32,
    pub stride: usize,
    /// Columns to be written, of those that the panels have.
    pub columns: usize,
}

/// Assigns the product. Every output is one chain over ascending pairs, so a row's bits do not depend on the others; that
/// sums go to memory and back between parts changes none.
///
/// # Safety
/// `usable` said yes; `out` is all there, and nothing else uses it.
///
/// # Panics
/// If the rows' layout is another one, or there are fewer rows, panels, or values of scratch than the product has.
pub(crate) unsafe fn multiply(p: &TileProduct<'_>, out: &Output, scratch: &mut [f32]) {
    let (rows, row_tiles) = (p.rows.len(), p.rows.len().div_ceil(16));
    assert!(p.a.layout() != Layout::Rows && p.rows.start.is_multiple_of(16) && p.rows.end <= p.a.rows());
    assert!(p.panels * p.a.steps() * 16 <= p.w.len() && out.columns <= p.panels * 16);
    assert!(TileProduct::scratch(rows, p.panels) <= scratch.len());
    let sums = scratch.as_mut_ptr();
    // SAFETY: the configuration is a valid one for palette 1. It takes some 200 cycles, a block a hundred thousand.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
    for part in 0..p.a.parts() {
        let k = p.a.part(part);
        let last = part + 1 == p.a.parts();
        for panel in (0..p.panels).step_by(2) {
            for row_tile in (0..row_tiles).step_by(2) {
                let (height, width) = (2.min(row_tiles - row_tile), 2.min(p.panels - panel));
                // SAFETY: the rows and panels are there, as asserted; each tile of sums has 1 KiB of the scratch; what
                // `finish` writes is of rows and columns that the caller vouches for.
                unsafe {
                    let a = p.a.lines().as_ptr().add(p.a.line(p.rows.start + row_tile * 16, &k));
                    let w = p.w.as_ptr().add((panel * p.a.steps() + k.start) * 16);
                    let sum = |i: usize, j: usize| sums.add(((panel + j) * row_tiles + row_tile + i) * SUMS);
                    each(height, width, |i, j| if part == 0 { clear(2 * i + j) } else { load(2 * i + j, sum(i, j)) });
                    let steps = Steps {
                        a: [a, a.add((height - 1) * k.len() * 16)],
                        w: [w, w.add((width - 1) * p.a.steps() * 16)],
                        tiles: k.len(),
                    };
                    steps.run(height, width, row_tiles > FEW_ROW_TILES);
                    each(height, width, |i, j| {
                        let (row, column) = ((row_tile + i) * 16, (panel + j) * 16);
                        if !last {
                            store(2 * i + j, sum(i, j), 64);
                        } else if row < rows && column < out.columns {
                            let to = out.values.add(row * out.stride + column);
                            finish(2 * i + j, to, out.stride, rows - row, out.columns - column, sum(i, j));
                        }
                    });
                }
            }
        }
    }
    // SAFETY: gives the tiles' state back, so that it need not be saved when threads switch.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Values of a tile of sums.
const SUMS: usize = 256;

/// Calls `f` for some of 2 x 2 tiles.
#[inline(always)]
fn each(height: usize, width: usize, f: impl Fn(usize, usize)) {
    for i in 0..height {
        for j in 0..width {
            f(i, j);
        }
    }
}

/// One instruction on one of the four registers of sums.
macro_rules! on_sums {
    ($register:expr, $before:literal, $after:literal, $($operand:tt)*) => {
        match $register {
            0 => asm!(concat!($before, "tmm0", $after), $($operand)*),
            1 => asm!(concat!($before, "tmm1", $after), $($operand)*),
            2 => asm!(concat!($before, "tmm2", $after), $($operand)*),
            _ => asm!(concat!($before, "tmm3", $after), $($operand)*),
        }
    };
}

/// # Safety
/// The tiles are configured.
#[inline(always)]
unsafe fn clear(register: usize) {
    // SAFETY: nothing else uses the register.
    unsafe { on_sums!(register, "tilezero ", "", options(nostack, nomem)) };
}

/// # Safety
/// The tiles are configured, and 1 KiB may be read.
#[inline(always)]
unsafe fn load(register: usize, from: *const f32) {
    // SAFETY: the caller's contract.
    unsafe {
        on_sums!(register, "tileloadd ", ", [{from} + {line}]", from = in(reg) from, line = in(reg) 64_usize,
            options(nostack, readonly))
    };
}

/// # Safety
/// The tiles are configured, and 16 rows of 64 bytes, `stride` bytes apart, may be written.
#[inline(always)]
unsafe fn store(register: usize, to: *mut f32, stride: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        on_sums!(register, "tilestored [{to} + {stride}], ", "", to = in(reg) to, stride = in(reg) stride,
            options(nostack))
    };
}

/// Stores up to 16 rows and columns, `stride` values from row to row; `spare` takes a tile that is not whole.
///
/// # Safety
/// The tiles are configured, and those rows and columns, and 1 KiB of `spare`, may be written.
#[inline(always)]
unsafe fn finish(register: usize, to: *mut f32, stride: usize, rows: usize, columns: usize, spare: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        if rows >= 16 && columns >= 16 {
            return store(register, to, stride * 4);
        }
        store(register, spare, 64);
        for row in 0..rows.min(16) {
            spare.add(row * 16).copy_to_nonoverlapping(to.add(row * stride), columns.min(16));
        }
    }
}

/// Up to two tiles of rows times up to two of panels, over successive k.
struct Steps {
    a: [*const [u32; 16]; 2],
    w: [*const [u32; 16]; 2],
    /// Tiles of k.
    tiles: usize,
}

/// Repeats instructions for each tile of k.
macro_rules! for_each_tile {
    ($steps:expr, $($line:expr),+) => {
        asm!(
            "2:",
            $($line,)+
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "dec {tiles}",
            "jnz 2b",
            a0 = inout(reg) $steps.a[0] => _,
            a1 = inout(reg) $steps.a[1] => _,
            w0 = inout(reg) $steps.w[0] => _,
            w1 = inout(reg) $steps.w[1] => _,
            line = in(reg) 64_usize,
            tiles = inout(reg) $steps.tiles => _,
            options(nostack, readonly),
        )
    };
}

/// Four tile products, their rows loaded by the instruction of that name. Each product stands as soon as its tiles do; it
/// takes 16 cycles and 52 until its sums can be used, so four chains suffice.
macro_rules! two_by_two {
    ($steps:expr, $load:literal) => {
        for_each_tile!(
            $steps,
            concat!($load, " tmm4, [{a0} + {line}]"),
            "tileloadd tmm6, [{w0} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w1} + {line}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            concat!($load, " tmm5, [{a1} + {line}]"),
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7"
        )
    };
}

impl Steps {
    /// Adds to the sums. With `past`, rows are read past the first-level cache, which leaves it to the panels: such a load
    /// may start every 33 cycles, any other every 8, and here two of them go with four products of 16.
    ///
    /// # Safety
    /// The tiles are configured; `tiles` KiB at as many of `a` and of `w` as `height` and `width` say are there.
    #[inline(always)]
    unsafe fn run(&self, height: usize, width: usize, past: bool) {
        if self.tiles == 0 {
            return;
        }
        // SAFETY: reads what the caller vouches for, and uses the tile registers, which nothing else does.
        unsafe {
            match (height, width) {
                (2, 2) if past => two_by_two!(self, "tileloaddt1"),
                (2, 2) => two_by_two!(self, "tileloadd"),
                (2, _) => for_each_tile!(
                    self,
                    "tileloadd tmm6, [{w0} + {line}]",
                    "tileloadd tmm4, [{a0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a1} + {line}]",
                    "tdpbf16ps tmm2, tmm5, tmm6"
                ),
                // With one tile of rows the weights are what takes time: 2 KiB from memory, 200 cycles and more.
                (_, 2) => for_each_tile!(
                    self,
                    "tileloadd tmm4, [{a0} + {line}]",
                    "tileloadd tmm6, [{w0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w1} + {line}]",
                    "tdpbf16ps tmm1, tmm4, tmm7"
                ),
                _ => for_each_tile!(
                    self,
                    "tileloadd tmm4, [{a0} + {line}]",
                    "tileloadd tmm6, [{w0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6"
                ),
            }
        }
    }
}
