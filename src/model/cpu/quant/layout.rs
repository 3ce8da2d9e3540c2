//! Quantised weights, repacked once into panels of 16 outputs.
//!
//! A panel is a stream of units: one block of 32 inputs, or for the types that share scales over 256 inputs eight blocks
//! behind a common head. A block is its head (16 scales, then 16 minima or second scales, one per output) and its
//! numbers in lines of 64 bytes: four successive inputs of each of the 16 outputs. A line of 4-bit numbers holds eight
//! inputs, `4 g..` in the low halves of its bytes and `16 + 4 g..` in the high ones. All is 32-byte aligned.

use half::f16;

/// Inputs of a block: those that share a scale, and an activation's scale.
pub(crate) const BLOCK: usize = 32;
/// Outputs of a panel.
pub(crate) const LANES: usize = 16;
/// Bytes of a line.
pub(crate) const LINE: usize = 64;

/// The types of quantised matrices, as GGUF files name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl QuantType {
    pub const ALL: [QuantType; 8] = [
        QuantType::Q4_0,
        QuantType::Q4_1,
        QuantType::Q5_0,
        QuantType::Q5_1,
        QuantType::Q8_0,
        QuantType::Q4K,
        QuantType::Q5K,
        QuantType::Q6K,
    ];

    /// Inputs of a block of the file.
    pub fn block_inputs(self) -> usize {
        BLOCK * self.shape().blocks
    }

    /// Bytes of a block of the file.
    pub fn block_bytes(self) -> usize {
        match self {
            QuantType::Q4_0 => 18,
            QuantType::Q4_1 => 20,
            QuantType::Q5_0 => 22,
            QuantType::Q5_1 => 24,
            QuantType::Q8_0 => 34,
            QuantType::Q4K => 144,
            QuantType::Q5K => 176,
            QuantType::Q6K => 210,
        }
    }

    /// Bytes that as many weights take in memory.
    pub fn packed_bytes(self) -> usize {
        self.shape().unit() / LANES
    }

    /// How its panels are laid out.
    pub(crate) const fn shape(self) -> Shape {
        let (nibbles, blocks, unit_head, head) = match self {
            QuantType::Q4_0 => (true, 1, 0, 32),
            QuantType::Q4_1 => (true, 1, 0, 64),
            QuantType::Q5_0 | QuantType::Q8_0 => (false, 1, 0, 32),
            QuantType::Q5_1 => (false, 1, 0, 64),
            QuantType::Q4K => (true, 8, 64, 32),
            QuantType::Q5K => (false, 8, 64, 32),
            QuantType::Q6K => (false, 8, 32, 32),
        };
        Shape { nibbles, blocks, unit_head, head }
    }
}

/// The bytes of a panel's unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Whether two numbers share a byte.
    pub nibbles: bool,
    /// Blocks of a unit.
    pub blocks: usize,
    /// Bytes before a unit's first block.
    pub unit_head: usize,
    /// Bytes before a block's numbers.
    pub head: usize,
}

impl Shape {
    /// Bytes of a block.
    pub const fn block(self) -> usize {
        self.head + LINE * if self.nibbles { 4 } else { 8 }
    }

    /// Bytes of a unit.
    pub const fn unit(self) -> usize {
        self.unit_head + self.blocks * self.block()
    }

    /// Where the number of an input below [`BLOCK`] and a lane stands among its block's lines, and how far it is shifted.
    fn place(self, input: usize, lane: usize) -> (usize, u32) {
        let (line, shift) = match self.nibbles {
            true => (input % 16 / 4, if input < 16 { 0 } else { 4 }),
            false => (input / 4, 0),
        };
        (line * LINE + lane * 4 + input % 4, shift)
    }
}

/// One of a file's blocks, taken apart.
struct Block {
    /// One byte each, signed ones in two's complement.
    numbers: [u8; 256],
    /// What all its inputs share: a scale and a minimum.
    shared: [f16; 2],
    /// Two bytes for each 32 inputs: a scale and a minimum of six bits, or two signed scales.
    parts: [[u8; 2]; 8],
}

impl QuantType {
    /// Takes a block of the file apart. Numbers of types with minima, and those that are kept with an offset (`Q4_0`,
    /// `Q5_0`), are unsigned. Minima come negated where the file subtracts them.
    fn read(self, bytes: &[u8]) -> Block {
        let mut block = Block { numbers: [0; 256], shared: [f16::ZERO; 2], parts: [[0; 2]; 8] };
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let numbers = &mut block.numbers;
        match self {
            QuantType::Q4_0 | QuantType::Q4_1 => {
                let from = self.block_bytes() - 16;
                block.shared = [half(0), if from == 4 { half(2) } else { f16::ZERO }];
                for (i, byte) in bytes[from..].iter().enumerate() {
                    (numbers[i], numbers[16 + i]) = (byte & 15, byte >> 4);
                }
            }
            QuantType::Q5_0 | QuantType::Q5_1 => {
                let from = self.block_bytes() - 20;
                block.shared = [half(0), if from == 4 { half(2) } else { f16::ZERO }];
                let high = &bytes[from..from + 4];
                let bit = |i: usize| (high[i / 8] >> (i % 8) & 1) << 4;
                for (i, byte) in bytes[from + 4..].iter().enumerate() {
                    (numbers[i], numbers[16 + i]) = (byte & 15 | bit(i), byte >> 4 | bit(16 + i));
                }
            }
            QuantType::Q8_0 => {
                block.shared[0] = half(0);
                numbers[..32].copy_from_slice(&bytes[2..]);
            }
            QuantType::Q4K | QuantType::Q5K => {
                block.shared = [half(0), -half(2)];
                block.parts = six_bits(&bytes[4..16]);
                let (high, low) = bytes[16..].split_at(self.block_bytes() - 16 - 128);
                for (i, number) in numbers.iter_mut().enumerate() {
                    let (pair, at) = (i / 64, i % 32);
                    let byte = low[pair * 32 + at];
                    *number = if i % 64 < 32 { byte & 15 } else { byte >> 4 };
                    if let Some(high) = high.get(at) {
                        *number |= (high >> (i / 32) & 1) << 4;
                    }
                }
            }
            QuantType::Q6K => {
                block.shared[0] = half(208);
                block.parts = std::array::from_fn(|i| [bytes[192 + 2 * i], bytes[193 + 2 * i]]);
                let (low, high) = (&bytes[..128], &bytes[128..192]);
                for (i, number) in numbers.iter_mut().enumerate() {
                    let (half, quarter, at) = (i / 128, i % 128 / 32, i % 32);
                    let low = low[half * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
                    let high = high[half * 32 + at] >> (2 * quarter) & 3;
                    *number = (low | high << 4).wrapping_sub(32);
                }
            }
        }
        block
    }

    /// Writes up to 16 rows of the file's blocks as a panel of zeros; the outputs without a row stay zero.
    pub(crate) fn pack(self, rows: &[&[u8]], panel: &mut [u8]) {
        let shape = self.shape();
        for (at, unit) in panel.chunks_exact_mut(shape.unit()).enumerate() {
            for (lane, row) in rows.iter().enumerate() {
                let block = self.read(&row[at * self.block_bytes()..][..self.block_bytes()]);
                self.write(&block, lane, unit);
            }
        }
    }

    fn write(self, block: &Block, lane: usize, unit: &mut [u8]) {
        let shape = self.shape();
        let shared_bytes = if shape.unit_head > 0 { shape.unit_head } else { shape.head };
        for (i, half) in block.shared.iter().enumerate().take(shared_bytes / 32) {
            unit[i * 32 + lane * 2..][..2].copy_from_slice(&half.to_le_bytes());
        }
        for (i, numbers) in block.numbers.chunks_exact(BLOCK).take(shape.blocks).enumerate() {
            let (head, lines) = unit[shape.unit_head + i * shape.block()..][..shape.block()].split_at_mut(shape.head);
            if shape.unit_head > 0 {
                (head[lane], head[LANES + lane]) = (block.parts[i][0], block.parts[i][1]);
            }
            for (input, number) in numbers.iter().enumerate() {
                let (at, shift) = shape.place(input, lane);
                lines[at] |= number << shift;
            }
        }
    }

    /// The weights of one lane of a panel, in float32.
    pub(crate) fn unpack(self, panel: &[u8], lane: usize, row: &mut [f32]) {
        let shape = self.shape();
        let units = panel.chunks_exact(shape.unit());
        for (unit, row) in units.zip(row.chunks_exact_mut(self.block_inputs())) {
            for (i, row) in row.chunks_exact_mut(BLOCK).enumerate() {
                let (head, lines) = unit[shape.unit_head + i * shape.block()..][..shape.block()].split_at(shape.head);
                let (scales, min) = self.factors(unit, head, lane);
                for (input, weight) in row.iter_mut().enumerate() {
                    let (at, shift) = shape.place(input, lane);
                    let number = lines[at] >> shift & if shape.nibbles { 15 } else { 255 };
                    let number = match self {
                        QuantType::Q8_0 | QuantType::Q6K => f32::from(number as i8),
                        QuantType::Q4_0 => f32::from(number) - 8.0,
                        QuantType::Q5_0 => f32::from(number) - 16.0,
                        _ => f32::from(number),
                    };
                    *weight = scales[input / 16] * number + min;
                }
            }
        }
    }

    /// The scales of a block's two halves, and its minimum.
    fn factors(self, unit: &[u8], head: &[u8], lane: usize) -> ([f32; 2], f32) {
        let half = |at: usize| f16::from_le_bytes([unit[at + 2 * lane], unit[at + 2 * lane + 1]]).to_f32();
        match self {
            QuantType::Q4_0 | QuantType::Q5_0 | QuantType::Q8_0 => ([half(0); 2], 0.0),
            QuantType::Q4_1 | QuantType::Q5_1 => ([half(0); 2], half(32)),
            QuantType::Q4K | QuantType::Q5K => {
                ([half(0) * f32::from(head[lane]); 2], half(32) * f32::from(head[LANES + lane]))
            }
            QuantType::Q6K => {
                let scale = |at: usize| half(0) * f32::from(head[at] as i8);
                ([scale(lane), scale(LANES + lane)], 0.0)
            }
        }
    }
}

/// Eight pairs of a scale and a minimum, six bits each, in twelve bytes: the first four of both are the low bits of
/// the first eight bytes; of the others, four bits are in the last four bytes and two on top of the first eight.
fn six_bits(bytes: &[u8]) -> [[u8; 2]; 8] {
    std::array::from_fn(|i| match i {
        0..4 => [bytes[i] & 63, bytes[i + 4] & 63],
        _ => [bytes[i + 4] & 15 | bytes[i - 4] >> 6 << 4, bytes[i + 4] >> 4 | bytes[i] >> 6 << 4],
    })
}
