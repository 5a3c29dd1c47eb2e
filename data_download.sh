#!/usr/bin/env bash
# Download, check and unpack PatchCamelyon (PCam). See --help.
# Works with the bash 3.2 and the BSD tools of macOS as well as on Linux.
set -euo pipefail
export LC_ALL=C # decimal points, not commas, from awk
unset CDPATH    # cd must go where it is told, and say nothing

usage() {
  cat <<'EOF'
usage: data_download.sh [--only SPLITS] [--keep-archives] [--verify] [DIR]

Downloads the six PatchCamelyon files (CC0, https://zenodo.org/records/2546921),
checks them and unpacks them into DIR (default: data/pcam). Everything needs
about 17 GB while it runs and 9 GB afterwards. Stopped half-way? Run it again:
it goes on where it was, and leaves alone what is already right.

  --only SPLITS     a comma separated choice of train,valid,test (default: all)
  --keep-archives   keep the .h5.gz files after unpacking (default: remove them)
  --verify          read the unpacked files through and compare them with the
                    checksum recorded when they were unpacked (default: compare
                    sizes only); a file that differs is fetched again
  --help            show this text

exit status: 0 all files right   1 folder not writable   2 wrong arguments
             3 missing tool      4 too little disk       5 host not reachable
             6 HTTP error        7 bad checksum or size  8 another run is active
             9 connection kept breaking off
environment: EQUILIB_PCAM_URL       other base address for the files
             EQUILIB_PCAM_MANIFEST  other file table (name bytes md5 unpacked_bytes)
             EQUILIB_PCAM_WAIT      seconds to wait before the first new try (2)
EOF
}

# name, bytes and md5 of the archive, unpacked bytes.
# The md5 list in the README of github.com/basveeling/pcam has the valid and test
# entries swapped; the sums here are those of the files that Zenodo serves.
# Unpacked bytes are N*96*96*3 (x) and N (y) with N = 262144, 32768, 32768, without
# the small HDF5 header: they serve for the disk estimate, not as a check.
table() {
  if [ -n "${EQUILIB_PCAM_MANIFEST:-}" ]; then cat "$EQUILIB_PCAM_MANIFEST"; return; fi
  cat <<'EOF'
camelyonpatch_level_2_split_train_x.h5.gz 6421353462 1571f514728f59376b705fc836ff4b63 7247757312
camelyonpatch_level_2_split_train_y.h5.gz 21378 35c2d7259d906cfc8143347bb8e05be7 262144
camelyonpatch_level_2_split_valid_x.h5.gz 805965320 d5b63470df7cfa627aeec8b9dc0c066e 905969664
camelyonpatch_level_2_split_valid_y.h5.gz 3038 2b85f58b927af9964a4c15b8f7e8f179 32768
camelyonpatch_level_2_split_test_x.h5.gz 800875929 d8c2d60d490dbd479f8199bdfa0cf6ec 905969664
camelyonpatch_level_2_split_test_y.h5.gz 3040 60a7035772fbdb7f34eb86d4420cf66a 32768
EOF
}

say() { echo "data_download: $*" >&2; }
die() { local status=$1; shift; say "error: $*"; exit "$status"; }
size_of() { if [ -f "$1" ]; then echo $(($(wc -c <"$1"))); else echo 0; fi; }
gb() { awk -v b="$1" 'BEGIN { printf "%.2f GB", b / 1e9 }'; }
md5_stdin() { if command -v md5sum >/dev/null; then md5sum | cut -d' ' -f1; else md5 -q; fi; }
# The command line of process $1; empty if there is no such process.
process_args() { { tr '\0' ' ' <"/proc/$1/cmdline" || ps -ww -p "$1" -o args=; } 2>/dev/null || true; }

dir=data/pcam only=train,valid,test keep=false verify=false got_dir=false
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --only) [ $# -gt 1 ] || die 2 "--only needs a value, such as --only valid,test"; only=$2; shift ;;
    --only=*) only=${1#*=} ;;
    --keep-archives) keep=true ;;
    --verify) verify=true ;;
    -*) die 2 "unknown option '$1': see --help" ;;
    *) $got_dir && die 2 "more than one folder given ('$dir' and '$1'): see --help"; dir=$1 got_dir=true ;;
  esac
  shift
done
only=${only// /}
for split in ${only//,/ }; do
  case $split in train | valid | test) ;; *) die 2 "unknown split '$split' in --only: choose from train,valid,test" ;; esac
done
for tool in curl gzip awk df ps tee wc; do
  [ "$tool" = ps ] && [ -d /proc/self ] && continue # Linux does without
  command -v "$tool" >/dev/null || die 3 "missing tool '$tool': install it (apt, conda or brew install $tool) and run again"
done
command -v md5sum >/dev/null || command -v md5 >/dev/null ||
  die 3 "missing tool 'md5sum' (or 'md5'): install it (apt, conda or brew install coreutils) and run again"

base=${EQUILIB_PCAM_URL:-https://zenodo.org/records/2546921/files} base=${base%/}
shown=$base # without the name and password that an address may hold
if [[ $base =~ ^([A-Za-z][A-Za-z0-9+.-]*://)?[^/]*@(.*)$ ]]; then shown=${BASH_REMATCH[1]}${BASH_REMATCH[2]}; fi
case $base in
  http://?* | https://?*) ;;
  *) die 2 "EQUILIB_PCAM_URL must begin with https:// or http://, got '$shown'" ;;
esac
host=${shown#*://} host=${host%%/*} wait_s=${EQUILIB_PCAM_WAIT:-2}
# A wrong number in an arithmetic expression would end a loop, and go on behind it.
[[ $wait_s =~ ^[0-9]{1,4}$ ]] || die 2 "EQUILIB_PCAM_WAIT must be whole seconds, got '$wait_s'"
wait_s=$((10#$wait_s))
[ -z "${EQUILIB_PCAM_MANIFEST:-}" ] || { [ -r "$EQUILIB_PCAM_MANIFEST" ] && [ ! -d "$EQUILIB_PCAM_MANIFEST" ]; } ||
  die 2 "cannot read the file table $EQUILIB_PCAM_MANIFEST (EQUILIB_PCAM_MANIFEST)"
row='^camelyonpatch_level_2_split_[a-z_]+\.h5\.gz [0-9]{1,15} [0-9a-f]{32} [0-9]{1,15}$'
names=() sizes=() sums=() fulls=()
while read -r name bytes sum full || [ -n "$name" ]; do # the last line may lack its end
  # The names become files, so a table from elsewhere must not lead out of the folder.
  [[ "$name $bytes $sum $full" =~ $row ]] ||
    die 2 "the file table (EQUILIB_PCAM_MANIFEST) has a line that is not 'camelyonpatch_….h5.gz bytes md5 unpacked_bytes': '$name $bytes $sum $full'"
  split=${name##*_split_} split=${split%%_*}
  case ,$only, in *,"$split",*) names+=("$name") sizes+=($((10#$bytes))) sums+=("$sum") fulls+=($((10#$full))) ;; esac
done < <(table)
[ ${#names[@]} -gt 0 ] || die 2 "--only '$only' selects no file: choose from train,valid,test"

mkdir -p "$dir" 2>/dev/null || die 1 "cannot make the folder $dir: choose another one"
dir=$(cd "$dir" && pwd -P)
lock=$dir/.download.lock have_lock=false curl_pid=

# Names for file number $1. An archive stays a .part until its content has been
# unpacked, so whatever carries a final name is complete and checked.
select_file() {
  name=${names[$1]} bytes=${sizes[$1]} sum=${sums[$1]} full=${fulls[$1]}
  gz=$dir/$name h5=$dir/${name%.gz} part=$dir/$name.part
  record=$h5.md5 # one line: md5 of the archive, bytes and md5 of the unpacked file
}
# Is the unpacked file what its record says (and of the archive we want)?
matches_record() {
  local r_gz r_bytes r_md5
  [ -f "$h5" ] && { read -r r_gz r_bytes r_md5 <"$record"; } 2>/dev/null || return 1
  [ "$r_gz" = "$sum" ] && [ "$r_bytes" = "$(size_of "$h5")" ] || return 1
  ! $verify || [ "$(md5_stdin <"$h5")" = "$r_md5" ]
}
has_leftovers() { [ -e "$part" ] || compgen -G "$h5.tmp.*" >/dev/null; }

release() {
  if [ -n "$curl_pid" ]; then kill "$curl_pid" && wait "$curl_pid" || true; fi 2>/dev/null
  if $have_lock; then rm -rf "$dir"/*.tmp.$$ "$lock"; fi
}
take_lock() {
  local try pid from curl
  [ -w "$dir" ] || die 1 "cannot write in $dir: choose another folder or change its permissions"
  for try in 1 2 3; do
    if mkdir "$lock" 2>/dev/null; then
      have_lock=true
      echo "$$ $(uname -n)" >"$lock/owner"
      return
    fi
    [ -s "$lock/owner" ] || sleep 1 # it may be starting just now
    pid='' from='' curl=''
    { read -r pid from <"$lock/owner"; } 2>/dev/null || true
    { read -r curl <"$lock/curl"; } 2>/dev/null || true
    # A process number says nothing across machines that share a folder; on this one
    # it may since have gone to some other program, hence the look at its name.
    if [ "${from:-$(uname -n)}" != "$(uname -n)" ] ||
      { [ "$pid" != $$ ] && [[ $(process_args "${pid:-0}") == *"${0##*/}"* ]]; }; then
      die 8 "another run (process $pid on $from) is downloading into $dir: wait for it, or remove $lock if it is gone"
    fi
    # kill -9 on a run leaves its curl alive, still writing the .part we would resume.
    while [[ $(process_args "${curl:-0}") == *curl*"$dir/"*.part* ]]; do
      kill -9 "$curl" 2>/dev/null || true
      sleep 0.1
    done
    rm -rf "$lock" # left behind by a run that was killed
  done
  die 8 "cannot lock $dir (try $try): if no other run is active, remove $lock and run again"
}

# Bring $part to its full size. Only tries that bring in next to nothing are counted,
# so that a shaky line may break off often during the 6 GB without using them up.
fetch() {
  local tries=5 try=0 best rc code size status why progress=--silent
  best=$(size_of "$part")
  [ -t 2 ] && progress=--progress-bar
  while size=$(size_of "$part") && [ "$size" -ne "$bytes" ]; do
    [ "$size" -lt "$bytes" ] || rm -f "$part"
    rc=0
    # sh writes down the process number that curl then has, for take_lock above.
    # In the background, because bash acts on signals in 'wait' but not in a command.
    # -q, first: what stands in ~/.curlrc (output, head, …) is meant for other downloads.
    # shellcheck disable=SC2016
    sh -c 'echo $$ >"$1" && shift && exec "$@"' sh "$lock/curl" \
      curl -q --globoff --proto =http,https --proto-redir =http,https "$progress" --fail --location --connect-timeout 20 --speed-limit 1024 --speed-time 60 \
      --continue-at - --output "$part" --write-out '%{http_code}' "$base/$name?download=1" >"$lock/code" &
    curl_pid=$!
    wait "$curl_pid" || rc=$?
    curl_pid='' code=$(cat "$lock/code") size=$(size_of "$part") status=9
    if [ "$rc" -eq 33 ] || [ "$code" = 416 ]; then
      rm -f "$part" # range ignored or out of bounds: what we have cannot be continued
      why="$name: the server cannot resume it, so it starts afresh"
    elif [[ $code == [45]?? ]]; then
      status=6 why="HTTP error $code from $shown/$name"
      case $code in 408 | 429 | 5??) ;; *) die 6 "$why; check the address (EQUILIB_PCAM_URL) or https://zenodo.org/records/2546921" ;; esac
    elif [ "$rc" -eq 0 ]; then
      [ "$size" -ne "$bytes" ] || return 0
      rm -f "$part" # a complete answer, but not our file; never resume on top of it
      die 7 "$name: $host sent $size bytes instead of $bytes (a login or proxy page?); removed it, check $shown and run again"
    elif [ "$rc" -eq 23 ]; then
      die 4 "$name: cannot write to $dir (disk full?); make room and run again to go on from here"
    elif [ "$code" = 000 ]; then
      status=5 why="$name: no network or $host not reachable (curl error $rc)"
    else
      why="$name: connection broke off at $size of $bytes bytes (curl error $rc)"
    fi
    if [ "$size" -gt $((best + 1000000)) ]; then best=$size try=0; fi
    try=$((try + 1))
    [ "$try" -lt "$tries" ] || die "$status" "$why, $tries times; check the connection and run again, what has arrived is kept"
    say "$why; trying again ($try of $((tries - 1)))"
    sleep $((wait_s * try))
  done
}

# Unpack under a temporary name; gzip checks its CRC on the way. The order of the last
# steps lets a run killed between any two of them be repaired without the network.
unpack() {
  local tmp=$h5.tmp.$$ h5_md5
  h5_md5=$(gzip -dc <"$part" | tee "$tmp" | md5_stdin) ||
    die 4 "$name: unpacking failed (disk full?); make room and run again, the archive is kept"
  echo "$sum $(size_of "$tmp") $h5_md5" >"$record.tmp.$$"
  rm -f "$record"
  mv -f "$tmp" "$h5"
  if $keep; then mv -f "$part" "$gz"; fi
  mv -f "$record.tmp.$$" "$record"
  rm -f "$part"
}

# Quick way out: nothing to do, so no lock, no network and no write access needed.
if ! $verify && [ ! -e "$lock" ]; then
  settled=true
  for i in "${!names[@]}"; do
    select_file "$i"
    if ! matches_record || has_leftovers; then settled=false; fi
  done
  if $settled; then say "all ${#names[@]} files are already right in $dir"; exit 0; fi
fi

trap release EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
take_lock

# Clear away leftovers first, so that the disk check sees the room they give back.
todo=() needed=0
for i in "${!names[@]}"; do
  select_file "$i"
  [ ! -d "$h5" ] || die 1 "${h5##*/} is a folder in $dir: move it away and run again"
  rm -f "$h5".tmp.* "$record".tmp.*
  if matches_record; then rm -f "$part"; continue; fi
  if [ -f "$h5" ] && [ -f "$record" ]; then
    say "${h5##*/} differs from its record; fetching it again"
    rm -f "$h5" "$record"
  elif [ -f "$h5" ]; then
    # A run that was killed after unpacking left the archive, so that nothing is lost.
    [ -f "$part" ] || [ -f "$gz" ] ||
      die 1 "${h5##*/} in $dir was not written by this script (it has no record), so it stays: move it away, or choose another folder, to download PCam's own"
    say "${h5##*/} has no record of a finished unpacking, so it cannot be checked; replacing it"
  fi
  if [ -f "$gz" ]; then mv -f "$gz" "$part"; fi # from --keep-archives or a browser: check and use it
  if [ "$(size_of "$part")" -gt "$bytes" ]; then rm -f "$part"; fi
  todo+=("$i") needed=$((needed + bytes - $(size_of "$part") + full))
done

if [ ${#todo[@]} -gt 0 ]; then
  # The number before the percentage; device and mount point may hold blanks.
  free_kb=$(df -Pk "$dir" | awk 'END { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) { print $(i - 1); exit } }') || true
  if [ -n "$free_kb" ] && [ "$needed" -gt $((free_kb * 1024)) ]; then
    die 4 "too little disk in $dir: $(gb "$needed") needed, $(gb $((free_kb * 1024))) available; make room, choose another folder, or use --only"
  fi
  for i in "${todo[@]}"; do
    select_file "$i"
    say "$name ($(gb "$bytes"))"
    fetch
    if [ "$(md5_stdin <"$part")" != "$sum" ]; then
      rm -f "$part"
      die 7 "bad checksum for $name: removed it, run again to download it afresh"
    fi
    unpack
  done
fi
for i in "${!names[@]}"; do # whatever happened above, this sentence is true
  select_file "$i"
  verify=false matches_record || die 7 "${h5##*/} is not what it should be; run again"
done
say "all ${#names[@]} files are right in $dir"
