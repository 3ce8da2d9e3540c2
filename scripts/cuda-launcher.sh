#!/bin/sh
# Starts idiolect with the CUDA libraries of this machine. `scripts/cuda.sh` puts this file beside
#
#   bin/idiolect   the program
#   needs          the libraries that it is linked with, a line each
#   stubs/         stand-ins for all of them, and for the driver's
#
# Libraries are looked for in the folders of IDIOLECT_CUDA_LIBRARIES (joined by colons), in `lib` beside this file, in
# LD_LIBRARY_PATH, among the system's own, in /usr/local/cuda, and in the packages of `python3`, where PyTorch has them.
# Where no driver is installed there is no GPU, and the stand-ins let the program start: it says that it found none and
# works on the processor, or fails where a GPU is demanded.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

known=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null || true)
places=${IDIOLECT_CUDA_LIBRARIES:-}:$here/lib:${LD_LIBRARY_PATH:-}
places=$places:/usr/local/cuda/lib64:/usr/local/cuda/targets/x86_64-linux/lib
driver_places=/usr/local/nvidia/lib64:/usr/local/nvidia/lib:/usr/lib/wsl/lib:/run/opengl-driver/lib

# The folder among $2 that has the library $1; `system` if the loader knows it by itself.
find_library() {
  old_ifs=$IFS; IFS=:
  for folder in $2; do
    if [ -n "$folder" ] && [ -e "$folder/$1" ]; then IFS=$old_ifs; echo "$folder"; return 0; fi
  done
  IFS=$old_ifs
  case $known in *"$1 "*) echo system ;; *) return 1 ;; esac
}

# Folders of NVIDIA's Python packages, joined by colons.
python_places() {
  python3 -c 'import glob, nvidia; print(":".join(d for p in nvidia.__path__ for d in glob.glob(p + "/*/lib")))' \
    2>/dev/null || true
}

# Adds a folder to those that the loader gets.
chosen=
choose() {
  case :$chosen: in *":$1:"*) ;; *) [ "$1" = system ] || chosen=${chosen:+$chosen:}$1 ;; esac
}

if ! driver=$(find_library libcuda.so.1 "$places:$driver_places") || [ "${IDIOLECT_DEVICE:-}" = cpu ]; then
  chosen=$here/stubs
else
  choose "$driver"
  python=unasked
  while read -r library; do
    if ! folder=$(find_library "$library" "$places"); then
      [ "$python" != unasked ] || python=$(python_places)
      if ! folder=$(find_library "$library" "$python"); then
        echo "idiolect: the CUDA library $library was not found in $places${python:+:$python}, nor by the loader" >&2
        echo "  help: name its folder in IDIOLECT_CUDA_LIBRARIES, or set IDIOLECT_DEVICE=cpu to work without a GPU" >&2
        exit 1
      fi
    fi
    choose "$folder"
  done <"$here/needs"
fi
if [ -n "$chosen" ]; then
  LD_LIBRARY_PATH=$chosen${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export LD_LIBRARY_PATH
fi
exec "$here/bin/idiolect" "$@"
