//! The innermost loop for AVX2 in assembly: six rows and 16 outputs keep all sixteen registers busy, which compilers do
//! not manage without moving sums to the stack and back.

/// Six rows of bytes and some expanded blocks of a panel. Strides are in bytes.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct SixRows {
    /// Blocks with ten lines each: scales, minima, eight lines of unsigned numbers below 16.
    pub lines: *const u8,
    pub blocks: usize,
    /// The first block of the first row.
    pub x: *const i8,
    pub x_stride: usize,
    /// The first block's scale and sum of the first row.
    pub scales: *const [f32; 2],
    pub scales_stride: usize,
    /// Sums so far of the first row's 16 outputs.
    pub out: *mut f32,
    pub out_stride: usize,
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::super::kernel::EXPANDED_LINES;
    use super::super::layout::LINE;
    use super::SixRows;
    use std::arch::asm;

    /// A line of numbers times four successive bytes of a row, summed in two registers of 16 bits: the first group assigns
    /// them, the others add.
    macro_rules! row {
        (assign $group:literal, $x:literal, $first:literal, $second:literal) => {
            concat!(
                "vpbroadcastd ymm12, dword ptr [",
                $x,
                " + 4 * ",
                $group,
                "]\n",
                "vpmaddubsw ",
                $first,
                ", ymm14, ymm12\n",
                "vpmaddubsw ",
                $second,
                ", ymm15, ymm12\n",
            )
        };
        (add $group:literal, $x:literal, $first:literal, $second:literal) => {
            concat!(
                "vpbroadcastd ymm12, dword ptr [",
                $x,
                " + 4 * ",
                $group,
                "]\n",
                "vpmaddubsw ymm13, ymm14, ymm12\n",
                "vpmaddubsw ymm12, ymm15, ymm12\n",
                "vpaddw ",
                $first,
                ", ",
                $first,
                ", ymm13\n",
                "vpaddw ",
                $second,
                ", ",
                $second,
                ", ymm12\n",
            )
        };
    }

    /// A line of numbers with all six rows.
    macro_rules! group {
        ($how:ident $group:literal) => {
            concat!(
                "vmovdqa ymm14, ymmword ptr [{lines} + 64 * (2 + ", $group, ")]\n",
                "vmovdqa ymm15, ymmword ptr [{lines} + 64 * (2 + ", $group, ") + 32]\n",
                row!($how $group, "{x}", "ymm0", "ymm1"),
                row!($how $group, "{x} + {x_stride}", "ymm2", "ymm3"),
                row!($how $group, "{x} + 2 * {x_stride}", "ymm4", "ymm5"),
                row!($how $group, "{x3}", "ymm6", "ymm7"),
                row!($how $group, "{x3} + {x_stride}", "ymm8", "ymm9"),
                row!($how $group, "{x3} + 2 * {x_stride}", "ymm10", "ymm11"),
            )
        };
    }

    /// Sums of 16 bits to float32: both halves of 32 are added first.
    macro_rules! widen {
        ($($sum:literal)*) => {
            concat!($("vpmaddwd ", $sum, ", ", $sum, ", ymm12\n", "vcvtdq2ps ", $sum, ", ", $sum, "\n",)*)
        };
    }

    /// `sum = fma(scales of weights * scale of the row, sum, output)`.
    macro_rules! scale {
        ($a:literal, $out:literal, $first:literal, $second:literal) => {
            concat!(
                "vbroadcastss ymm13, dword ptr [",
                $a,
                "]\n",
                "vmulps ymm12, ymm14, ymm13\n",
                "vmulps ymm13, ymm15, ymm13\n",
                "vfmadd213ps ",
                $first,
                ", ymm12, ymmword ptr [",
                $out,
                "]\n",
                "vfmadd213ps ",
                $second,
                ", ymm13, ymmword ptr [",
                $out,
                " + 32]\n",
            )
        };
    }

    /// `output = fma(minima, the row's sum, sum)`.
    macro_rules! minimum {
        ($a:literal, $out:literal, $first:literal, $second:literal) => {
            concat!(
                "vbroadcastss ymm12, dword ptr [",
                $a,
                " + 4]\n",
                "vfmadd231ps ",
                $first,
                ", ymm14, ymm12\n",
                "vmovups ymmword ptr [",
                $out,
                "], ",
                $first,
                "\n",
                "vfmadd231ps ",
                $second,
                ", ymm15, ymm12\n",
                "vmovups ymmword ptr [",
                $out,
                " + 32], ",
                $second,
                "\n",
            )
        };
    }

    /// One of the two above for all six rows.
    macro_rules! six {
        ($what:ident) => {
            concat!(
                $what!("{a}", "{out}", "ymm0", "ymm1"),
                $what!("{a} + {a_stride}", "{out} + {out_stride}", "ymm2", "ymm3"),
                $what!("{a} + 2 * {a_stride}", "{out} + 2 * {out_stride}", "ymm4", "ymm5"),
                $what!("{a3}", "{out3}", "ymm6", "ymm7"),
                $what!("{a3} + {a_stride}", "{out3} + {out_stride}", "ymm8", "ymm9"),
                $what!("{a3} + 2 * {a_stride}", "{out3} + 2 * {out_stride}", "ymm10", "ymm11"),
            )
        };
    }

    impl SixRows {
        /// Adds the blocks' products to the outputs, each output's chain as [`kernel`](super::super::kernel) describes it.
        ///
        /// Sums of 16 bits cannot overflow: eight groups of two products, each at most 15 * 127.
        ///
        /// # Safety
        /// The processor has AVX2 and FMA; the lines (aligned to 32 bytes), the rows and the outputs are where the fields say.
        #[inline(always)]
        pub(in super::super) unsafe fn add(self) {
            if self.blocks == 0 {
                return;
            }
            let (x, a, out) = (self.x, self.scales.cast::<u8>(), self.out.cast::<u8>());
            // SAFETY: all that is read and written is the caller's promise; flags and registers are declared, and the stack is
            // not used.
            unsafe {
                asm!(
                    "2:",
                    group!(assign 0),
                    group!(add 1),
                    group!(add 2),
                    group!(add 3),
                    group!(add 4),
                    group!(add 5),
                    group!(add 6),
                    group!(add 7),
                    "vpcmpeqw ymm12, ymm12, ymm12",
                    "vpsrlw ymm12, ymm12, 15",
                    widen!("ymm0" "ymm1" "ymm2" "ymm3" "ymm4" "ymm5" "ymm6" "ymm7" "ymm8" "ymm9" "ymm10" "ymm11"),
                    "vmovaps ymm14, ymmword ptr [{lines}]",
                    "vmovaps ymm15, ymmword ptr [{lines} + 32]",
                    six!(scale),
                    "vmovaps ymm14, ymmword ptr [{lines} + 64]",
                    "vmovaps ymm15, ymmword ptr [{lines} + 96]",
                    six!(minimum),
                    "add {lines}, {step}",
                    "add {x}, 32",
                    "add {x3}, 32",
                    "add {a}, 8",
                    "add {a3}, 8",
                    "dec {blocks}",
                    "jnz 2b",
                    lines = inout(reg) self.lines => _,
                    blocks = inout(reg) self.blocks => _,
                    x = inout(reg) x => _,
                    x3 = inout(reg) x.add(3 * self.x_stride) => _,
                    x_stride = in(reg) self.x_stride,
                    a = inout(reg) a => _,
                    a3 = inout(reg) a.add(3 * self.scales_stride) => _,
                    a_stride = in(reg) self.scales_stride,
                    out = in(reg) out,
                    out3 = in(reg) out.add(3 * self.out_stride),
                    out_stride = in(reg) self.out_stride,
                    step = const EXPANDED_LINES * LINE,
                    out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                    out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                    out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                    out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                    options(nostack),
                );
            }
        }
    }
}
