#!/usr/bin/env bash
# Builds idiolect for NVIDIA GPUs on a machine that need not have one, and packs the result for one that has.
#
#   scripts/cuda.sh setup  [--dir DIR]               fetch the compiler, make names for the linker
#   scripts/cuda.sh build  [--dir DIR] [--target T]  compile with `--features cuda`
#   scripts/cuda.sh bundle [--dir DIR] [--target T] [--part-mib N] [--libraries] [--model FILE] [--rows FILE] [--peer] OUT
#                                                    pack what travels into parts of at most N MiB (default 50)
#
# DIR (default ~/.cache/idiolect-cuda) holds the toolkit, T (default DIR/target) cargo's output. The program is then
# T/cuda/idiolect, a launcher that finds the libraries. A bundle holds it and the measuring scripts, and on demand
# CUDA's libraries (about 700 MB; a machine with PyTorch has them), a model, rows to measure with, and what the peer
# needs to read the model.
# CUDA_COMPUTE_CAP chooses the GPU's generation: 90 (the default) for Hopper, 80 and 86 for Ampere, 89 for Ada.
#
# The toolkit comes as Python packages: no administrator, no installer, and the version is written down here.
# docs/gpu.md tells the whole way.
set -euo pipefail

readonly CUDA=13.0
# What compiles the kernels (nvcc, crt, nvvm, cccl), what the program is linked with (the others).
readonly PACKAGES=(
  "nvidia-cuda-nvcc==$CUDA.*" "nvidia-cuda-crt==$CUDA.*" "nvidia-nvvm==$CUDA.*" "nvidia-cuda-cccl==$CUDA.*"
  "nvidia-cuda-runtime==$CUDA.*" "nvidia-cuda-nvrtc==$CUDA.*" "nvidia-cublas==$CUDA.*" "nvidia-curand==10.4.0.*"
)
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT

die() { echo "cuda.sh: $*" >&2; exit 1; }
say() { echo "cuda.sh: $*" >&2; }
need() { command -v "$1" >/dev/null || die "\`$1\` is needed and was not found"; }

# The toolkit's folder inside the virtual environment.
toolkit() {
  local found=("$DIR"/venv/lib/python3*/site-packages/nvidia/cu13)
  [ -x "${found[0]}/bin/nvcc" ] || die "no compiler in $DIR: run \`scripts/cuda.sh setup --dir $DIR\` first"
  echo "${found[0]}"
}

setup() {
  need python3; need cc
  mkdir -p "$DIR"
  [ -x "$DIR/venv/bin/python" ] || python3 -m venv "$DIR/venv"
  # Their own dependencies are left out: all that is needed is named above.
  "$DIR/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "${PACKAGES[@]}"
  local home; home=$(toolkit)
  linker_names "$home/lib"
  driver_stub "$home"
  "$home/bin/nvcc" --version | sed -n 4p >&2
  say "ready in $DIR"
}

# The linker looks for `libNAME.so`; the packages hold `libNAME.so.VERSION` alone.
linker_names() {
  local name found
  for name in cudart cublas cublasLt curand nvrtc; do
    found=("$1/lib$name".so.*)
    [ -e "${found[0]}" ] || die "lib$name is not in $1: is the package incomplete?"
    ln -sf "$(basename "${found[0]}")" "$1/lib$name.so"
  done
}

# The driver's library belongs to the machine with the GPU and is in no package. This one has its name (soname) and
# every symbol of the header, and answers each call with "no device". The program is linked against it; at run time
# the real one is loaded where a driver is installed. Where none is, the launcher puts this one in its place, so that
# the program starts, finds no GPU and says so.
driver_stub() {
  local home=$1 stub=$1/lib/stubs
  mkdir -p "$stub"
  {
    echo '#define NO_DEVICE 100'
    echo 'int idiolect_no_driver(void) { return NO_DEVICE; }'
    echo 'static int text(const char **to, const char *what) { if (to) *to = what; return 0; }'
    echo 'int cuGetErrorName(int error, const char **to) { return text(to, "CUDA_ERROR_NO_DEVICE"); }'
    echo 'int cuGetErrorString(int error, const char **to) { return text(to, "no NVIDIA driver is installed"); }'
    # All that looks like a function; a name too many does no harm.
    grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' "$home/include/cuda.h" | sort -u |
      grep -vxE 'cuGetError(Name|String)' |
      sed 's/.*/int &(void) __attribute__((alias("idiolect_no_driver")));/'
  } >"$stub/stub.c"
  cc -shared -fPIC -O1 -w -Wl,-soname,libcuda.so.1 -o "$stub/libcuda.so.1" "$stub/stub.c"
  ln -sf libcuda.so.1 "$stub/libcuda.so"
}

build() {
  need cargo
  local home; home=$(toolkit)
  export CUDA_HOME=$home CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
  # The version of CUDA is asked of `nvcc`.
  export PATH=$home/bin:$PATH
  say "compute capability $CUDA_COMPUTE_CAP, target folder $TARGET"
  (cd "$ROOT" && cargo build --release --locked --features cuda --bin idiolect --target-dir "$TARGET")
  place "$TARGET/cuda"
  say "built; start it as $TARGET/cuda/idiolect"
}

# Lays program, launcher and stand-ins out in a folder: what can be started here and carried elsewhere.
place() {
  need readelf; need nm; need strip
  local home; home=$(toolkit)
  local out=$1 program=$TARGET/release/idiolect
  [ -x "$program" ] || die "no $program: run \`scripts/cuda.sh build\` first"
  mkdir -p "$out/bin" "$out/stubs"
  strip -o "$out/bin/idiolect" "$program"
  cp "$ROOT/scripts/cuda-launcher.sh" "$out/idiolect"
  chmod +x "$out/idiolect"
  readelf -d "$program" | grep -oE 'lib(cu|nv)[A-Za-z]*\.so\.[0-9]+' | grep -v '^libcuda\.so' >"$out/needs" || true
  grep -q cublas "$out/needs" || die "$program is not linked with CUDA: was it built without the feature?"
  cp "$home/lib/stubs/libcuda.so.1" "$out/stubs/"
  local library
  while read -r library; do stand_in "$library" "$home/lib" "$program" "$out/stubs"; done <"$out/needs"
}

# A library with the symbols that the program takes from it, and their version. Nothing but the driver's is called where
# there is no driver, save that kernels register themselves when the program starts.
stand_in() {
  local library=$1 from=$2 program=$3 out=$4 defined=$DIR/defined
  nm -D --defined-only "$from/$library" | awk '{ sub(/@.*/, "", $NF); print $NF }' | sort -u >"$defined"
  nm -D --undefined-only "$program" | awk '{ sub(/@.*/, "", $NF); print $NF }' | sort -u | comm -12 - "$defined" |
    sed 's/.*/int &(void) { return 1; }/' >"$defined.c"
  echo "$library { global: *; };" >"$defined.map"
  cc -shared -fPIC -O1 -w -Wl,-soname,"$library" -Wl,--version-script="$defined.map" -o "$out/$library" "$defined.c"
  rm -f "$defined" "$defined.c" "$defined.map"
}

# One archive, cut into parts: carriers bound what goes at once. `unpack.sh` checks and joins them.
bundle() {
  need xz; need split; need sha256sum
  [ -n "$OUT" ] || die "where to? scripts/cuda.sh bundle OUT"
  mkdir -p "$OUT"
  local name=idiolect-cuda stage=$OUT/stage
  rm -rf "$stage" "$OUT/$name".tar.xz.*
  place "$stage/$name"
  cp "$ROOT/scripts/gpu-measure.py" "$ROOT/benches/peer.py" "$stage/$name/"
  [ -z "$MODEL" ] || cp "$MODEL" "$stage/$name/"
  [ -z "$ROWS" ] || cp "$ROWS" "$stage/$name/rows.jsonl"
  # Transformers reads GGUF files by this package, which few machines have.
  if [ "$PEER" = yes ]; then
    "$DIR/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
      --target "$stage/$name/python" gguf
  fi
  if [ "$LIBRARIES" = yes ]; then
    mkdir -p "$stage/$name/lib"
    local home library; home=$(toolkit)
    # cuBLAS itself needs its light sister.
    for library in $(cat "$stage/$name/needs") libcublasLt.so.13; do cp -L "$home/lib/$library" "$stage/$name/lib/"; done
  fi
  tar -C "$stage" -cf - "$name" | xz -6 -T2 | split -b "${PART_MIB}M" -d -a 3 - "$OUT/$name.tar.xz."
  rm -rf "$stage"
  (cd "$OUT" && sha256sum "$name".tar.xz.* >"$name.sha256")
  cat >"$OUT/unpack.sh" <<'END'
#!/bin/sh
# unpack.sh FOLDER: joins the parts that lie beside this file, once all of them are here
set -eu
here=$(cd "$(dirname "$0")" && pwd)
(cd "$here" && sha256sum --quiet -c idiolect-cuda.sha256)
mkdir -p "$1"
# tar asks xz for help, which is not everywhere; Python brings its own.
cat "$here"/idiolect-cuda.tar.xz.* | if command -v xz >/dev/null; then xz -d; else
  python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.stdin.buffer), sys.stdout.buffer)'
fi | tar -C "$1" -xf -
echo "$1/idiolect-cuda/idiolect"
END
  chmod +x "$OUT/unpack.sh"
  (cd "$OUT" && du -h "$name".tar.xz.* >&2)
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2; }

DIR=${XDG_CACHE_HOME:-$HOME/.cache}/idiolect-cuda
command=${1:-}; [ $# -eq 0 ] || shift
TARGET=; MODEL=; ROWS=; LIBRARIES=no; PEER=no; PART_MIB=50; OUT=
while [ $# -gt 0 ]; do
  case $1 in
    --dir | --target | --model | --rows | --part-mib)
      [ $# -ge 2 ] || die "$1 wants a value"
      case $1 in --dir) DIR=$2 ;; --target) TARGET=$2 ;; --model) MODEL=$2 ;; --rows) ROWS=$2 ;;
        --part-mib) PART_MIB=$2 ;; esac
      shift 2 ;;
    --libraries) LIBRARIES=yes; shift ;;
    --peer) PEER=yes; shift ;;
    -*) die "unknown option $1" ;;
    *) OUT=$1; shift ;;
  esac
done
TARGET=${TARGET:-$DIR/target}
case $command in setup | build | bundle) "$command" ;; *) usage ;; esac
