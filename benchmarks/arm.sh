#!/bin/sh
# A folder in which programs of 64-bit Arm run on any Linux with apt and pip: an emulator, Python, numpy, onnxruntime.
# Nothing is installed: packages are unpacked.  Usage: sh benchmarks/arm.sh FOLDER; runtimes.py --arm FOLDER uses it.
set -eu
if [ $# -ne 1 ] || [ -z "$1" ]; then
    echo "arm.sh: name the folder to fill: sh benchmarks/arm.sh FOLDER" >&2
    exit 2
fi
for tool in apt-get dpkg "${PYTHON:-python3}"; do
    command -v "$tool" > /dev/null || { echo "arm.sh: needs $tool, which is not here (Debian and its relatives have it)" >&2; exit 1; }
done
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
constraints=$(cd "$(dirname "$0")/.." && pwd)/constraints.txt
folder=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$folder"
mkdir -p debs lists/partial cache/archives/partial site root/proc root/sys/devices/system/cpu
: > status
(cd debs && apt-get download qemu-user-static)
apt_get_arm() {
    apt-get -o "Dir::State=$folder" -o "Dir::State::lists=$folder/lists" -o "Dir::State::status=$folder/status" \
        -o "Dir::Cache=$folder/cache" -o APT::Architecture=arm64 -o APT::Architectures=arm64 "$@"
}
apt_get_arm update
(cd debs && apt_get_arm download python3.11 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 \
    libstdc++6 zlib1g libexpat1 libbz2-1.0 liblzma5 libffi8 libssl3 libsqlite3-0 libuuid1)
dpkg -x debs/qemu-user-static_*.deb emulator
cp emulator/usr/bin/qemu-aarch64-static .
for package in debs/*_arm64.deb; do dpkg -x "$package" root; done
# The versions of constraints.txt, for the other processor.
for name in numpy onnxruntime; do
    "$python" -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 --dest wheels \
        "$(grep "^$name==" "$constraints")"
done
for wheel in wheels/*.whl; do "$python" -m zipfile -e "$wheel" site; done
# onnxruntime asks the system which core it runs on, and breaks off where nothing answers.
for name in possible present online; do echo 0 > "root/sys/devices/system/cpu/$name"; done
printf 'processor\t: 0\nFeatures\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n' > root/proc/cpuinfo
