//! Which instructions the kernels use: found at run time, or demanded by name.

use std::fmt;
use std::sync::OnceLock;

/// The environment variable that demands a path instead of the best one of the machine.
pub const KERNEL_VARIABLE: &str = "IDIOLECT_KERNEL";

/// The kernels' paths, slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Plain Rust with `f32::mul_add`, on any processor.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512F; with AVX-512 BF16, where the processor has it, for `Format::Bf16`.
    Avx512,
    /// AMX tiles for `Format::Bf16`; all else as `Avx512`.
    Amx,
}

impl Path {
    /// All paths, best first.
    pub const ALL: [Path; 4] = [Path::Amx, Path::Avx512, Path::Avx2, Path::Portable];

    /// The name that `IDIOLECT_KERNEL` takes.
    pub fn name(self) -> &'static str {
        match self {
            Path::Portable => "portable",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
            Path::Amx => "amx",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn supported(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Path::Portable => true,
            Path::Avx2 => has!("avx2") && has!("fma") && has!("f16c"),
            Path::Avx512 => Path::Avx2.supported() && has!("avx512f"),
            Path::Amx => Path::Avx512.supported() && super::amx::usable(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn supported(self) -> bool {
        self == Path::Portable
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A path that was demanded and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    #[error("`{0}` is no kernel path; expected portable, avx2, avx512 or amx")]
    Unknown(String),
    #[error("this machine cannot run the `{0}` kernels; its best path is `{1}`")]
    Unsupported(Path, Path),
}

/// A path that this machine was found to support. Every kernel takes one.
///
/// In f32 all paths give the same bits: each output is one chain of fused multiply-adds in a fixed order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa {
    // Private: a value of this type is the proof that the instructions may be executed.
    path: Path,
    bf16_dot: bool,
}

impl Isa {
    /// The best path of this machine.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Path::ALL.into_iter().find_map(Isa::supported).unwrap_or(Isa::PORTABLE))
    }

    /// The path of that name, if this machine supports it.
    pub fn require(path: Path) -> Result<Isa, IsaError> {
        Isa::supported(path).ok_or_else(|| IsaError::Unsupported(path, Isa::best().path))
    }

    /// What `IDIOLECT_KERNEL` demands; the best path where it is not set.
    pub fn from_env() -> Result<Isa, IsaError> {
        match std::env::var_os(KERNEL_VARIABLE) {
            None => Ok(Isa::best()),
            Some(name) => Isa::parse(&name.to_string_lossy()),
        }
    }

    /// Like [`Isa::require`], by name.
    pub fn parse(name: &str) -> Result<Isa, IsaError> {
        match Path::ALL.into_iter().find(|path| path.name() == name) {
            Some(path) => Isa::require(path),
            None => Err(IsaError::Unknown(name.to_string())),
        }
    }

    /// All paths of this machine, best first.
    pub fn available() -> Vec<Isa> {
        Path::ALL.into_iter().filter_map(Isa::supported).collect()
    }

    /// The path.
    pub fn path(self) -> Path {
        self.path
    }

    /// Whether the AVX-512 BF16 dot product may be used.
    pub(crate) fn has_bf16_dot(self) -> bool {
        self.bf16_dot
    }

    const PORTABLE: Isa = Isa { path: Path::Portable, bf16_dot: false };

    fn supported(path: Path) -> Option<Isa> {
        path.supported().then(|| Isa { path, bf16_dot: path >= Path::Avx512 && bf16_dot_detected() })
    }
}

#[cfg(target_arch = "x86_64")]
fn bf16_dot_detected() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_dot_detected() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_is_the_first_available() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::best()));
        assert_eq!(available.last().map(|isa| isa.path()), Some(Path::Portable));
    }

    #[test]
    fn what_is_absent_is_an_error_not_a_fallback() {
        for path in Path::ALL {
            match Isa::require(path) {
                Ok(isa) => assert_eq!(isa.path(), path),
                Err(error) => assert_eq!(error, IsaError::Unsupported(path, Isa::best().path())),
            }
        }
        assert_eq!(Isa::parse("sse"), Err(IsaError::Unknown("sse".into())));
    }
}
