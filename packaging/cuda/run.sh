#!/usr/bin/env bash
# Runs the callbox-gpu beside it with the CUDA libraries of this machine, wherever they are. Enters: a machine with a card, a driver
# and CUDA 13, from a toolkit, from wheels of pip, or from our package; leaves: what callbox-gpu says and ends with. Without one of
# the libraries it says which, and ends with 1.
#   run.sh test|bench [OPTION...]          options: run.sh test --help
set -euo pipefail
here=$(dirname "$(realpath "$0")")

folders() {
    printf '%s\n' "${CUDA_HOME:-/usr/local/cuda}"/lib64 /usr/local/cuda*/lib64 /usr/local/cuda*/targets/x86_64-linux/lib \
        /usr/lib/callbox/cuda /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/wsl/lib
    python3 -c 'import glob, site, sysconfig
for packages in {sysconfig.get_paths()["purelib"], *site.getsitepackages(), site.getusersitepackages()}:
    print(*glob.glob(packages + "/nvidia/*/lib"), sep="\n")' 2>/dev/null || true
}
known=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null || true)
given=${LD_LIBRARY_PATH:-} places=$(folders) missing=()
for library in libcuda.so.1 libcudart.so.13 libcublas.so.13 libcublasLt.so.13 libcurand.so.10; do
    found=
    while read -r folder; do
        if [ -n "$folder" ] && [ -e "$folder/$library" ]; then found=$folder; break; fi
    done < <(tr ':' '\n' <<<"$given"; [[ $known == *"$library "* ]] || echo "$places")
    if [ -n "$found" ]; then
        [[ :${LD_LIBRARY_PATH:-}: == *":$found:"* ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
    # A missing driver callbox-gpu tells itself: it can do without one.
    elif [[ $known != *"$library "* && $library != libcuda.so.1 ]]; then
        missing+=("$library")
    fi
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "callbox-gpu: ${missing[*]} not found: install the libraries of CUDA 13, or name their folder in LD_LIBRARY_PATH" >&2
    exit 1
fi
what=${1:-}
shift || true
case $what in test | bench) set -- "$what" --stamp "$(<"$here/commit"), $(date -u +%FT%TZ)" "$@" ;; *) set -- $what "$@" ;; esac
exec "$here/callbox-gpu" "$@"
