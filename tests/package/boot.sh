#!/bin/bash
# A disposable machine with a real systemd as PID 1, for tests of units and packages.
#
#   boot.sh start [-s SUITE] [-b HOST:GUEST]... [-B HOST:GUEST]... NAME   boot and leave running (-b read only, -B writable)
#   boot.sh exec  NAME CMD [ARG]...   run a command in it as root; standard streams pass through
#   boot.sh net   NAME CMD [ARG]...   run a program of this computer in its network
#   boot.sh stop  [-k] NAME           power off; -k keeps the disk: a later `start NAME` is a reboot of the same machine
#   boot.sh kill  NAME                SIGKILL to its PID 1, disk kept: a later `start NAME` comes after a power cut
#   boot.sh build [-s SUITE] [-f]     make the base root only (-f: afresh)
#   boot.sh check                     say why this computer cannot do that, in one line, with status 1
#   boot.sh clean                     stop every machine, remove roots and disks
#
# SUITE: bookworm (systemd 252) or trixie (257); with -rpm behind it, dnf is there too. Needs root, a Debian host with
# apt, overlayfs, namespaces and a cgroup2; PID 1 of the host need not be systemd. The base root is made once per suite
# (half a minute) and never written to again: a machine has its own overlay, network namespace (loopback only), cgroup and
# pid namespace, and boots in a quarter of a second. Its /opt/archive holds the Debian packages that callbox depends on, and a
# clock for tests.
# ROOTS: where roots and disks lie. QUIET=1: only failures are told.
set -euo pipefail
umask 022

ROOTS=${ROOTS:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox/roots}
SUITE=bookworm
INCLUDE=systemd,systemd-sysv,dbus,libpam-systemd,ca-certificates,gpgv
DEPENDENCIES='espeak-ng libfaketime'
KEEP=0 FORCE=0 BINDS=() REST=()

die() { echo "boot.sh: $*" >&2; exit 125; }
say() { [ -n "${QUIET:-}" ] || echo "boot.sh: $*" >&2; }
now() { date +%s%N; }
ms()  { echo $(( ($(now) - $1) / 1000000 )); }

# ---------------------------------------------------------------- can this computer do it?
able() {
  [ "$(id -u)" = 0 ] || { echo "not root"; return 1; }
  command -v apt-get >/dev/null || { echo "no Debian host"; return 1; }
  grep -q ' cgroup2 ' /proc/mounts || { echo "no cgroup2 is mounted"; return 1; }
  unshare --mount --pid --net --uts --ipc --cgroup --fork true 2>/dev/null || { echo "namespaces cannot be made"; return 1; }
  local missing=() tool
  for tool in mmdebstrap systemd-nspawn pgrep nsenter apt-ftparchive ip; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  [ ${#missing[@]} = 0 ] || { echo "missing: ${missing[*]} (make setup)"; return 1; }
}

# ---------------------------------------------------------------- the base root (once per suite)
# Another way of making it makes another one.
base() { echo "$ROOTS/base-$SUITE-$({ declare -f build; echo "$INCLUDE $DEPENDENCIES"; } | sha256sum | head -c 8)"; }

build() {
  local base t include=$INCLUDE; base=$(base) t=$(now)
  mkdir -p "$ROOTS"
  exec 9>"$ROOTS/.lock"; flock 9                      # two callers at once: the second waits, then reuses
  [ "$FORCE" = 1 ] && rm -rf --one-file-system "$base"
  if [ ! -e "$base/.complete" ]; then
    rm -rf --one-file-system "$base" "$base.tmp"
    # The archive is whatever this host's apt already uses; its name is never written down.
    local mirror; mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n1)
    [ -n "$mirror" ] || die "no package archive configured in apt"
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    case $SUITE in *-rpm) include+=,rpm,dnf,gpg ;; esac
    if ! mmdebstrap --quiet --variant=apt --keyring="$key" --include="$include" \
      --aptopt='APT::Install-Recommends "false"' \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
      --customize-hook="APT_CONFIG=\$MMDEBSTRAP_APT_CONFIG apt-get -qq -y --no-install-recommends --download-only install $DEPENDENCIES" \
      --customize-hook='mkdir -p "$1/opt/archive" && mv "$1"/var/cache/apt/archives/*.deb "$1/opt/archive/"' \
      "${SUITE%-rpm}" "$base.tmp" "$mirror" 2>"$ROOTS/build.err"
    then sed 's#://[^/ ]*#://ARCHIVE#g' "$ROOTS/build.err" >&2; rm -f "$ROOTS/build.err"; die "mmdebstrap failed"; fi
    rm -f "$ROOTS/build.err"
    # No archive, proxy or build-host trace in the root: a test machine installs from a local repository only.
    rm -rf "$base.tmp"/etc/apt/sources.list "$base.tmp"/etc/apt/sources.list.d/* "$base.tmp"/etc/apt/apt.conf.d/99mmdebstrap \
           "$base.tmp"/etc/resolv.conf "$base.tmp"/var/lib/apt/lists/* "$base.tmp"/var/log/*.log "$base.tmp"/var/log/apt
    (cd "$base.tmp/opt/archive" && apt-ftparchive packages . >Packages 2>/dev/null)
    mkdir -p "$base.tmp"/var/lib/apt/lists/partial "$base.tmp"/var/log/apt
    echo testbed > "$base.tmp/etc/hostname"
    printf '127.0.0.1 localhost testbed\n::1 localhost\n' > "$base.tmp/etc/hosts"
    : > "$base.tmp/etc/machine-id"                     # filled at first boot
    mkdir -p "$base.tmp/etc/systemd/journald.conf.d" "$base.tmp/etc/systemd/system.conf.d" "$base.tmp/var/log/journal"
    printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nAudit=no\n' > "$base.tmp/etc/systemd/journald.conf.d/testbed.conf"
    printf '[Manager]\nDefaultTimeoutStopSec=15s\n' > "$base.tmp/etc/systemd/system.conf.d/testbed.conf"
    local u                                            # nothing periodic, no console login: a quiet machine
    for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer motd-news.timer \
             console-getty.service getty@tty1.service systemd-networkd-wait-online.service systemd-resolved.service; do
      ln -sfn /dev/null "$base.tmp/etc/systemd/system/$u"
    done
    touch "$base.tmp/.complete"; mv "$base.tmp" "$base"
    say "base root $SUITE made in $(ms "$t") ms"
  fi
  flock -u 9; exec 9>&-
}

# ---------------------------------------------------------------- cgroups
# Each machine gets its own node in the cgroup2 hierarchy (wherever it is mounted) and, where the host has a v1
# name=systemd hierarchy (hybrid hosts), one there too; systemd-nspawn puts supervisor/ and payload/ below it.
cg_mounts() { awk '$3=="cgroup2"{print $2} $3=="cgroup" && $4 ~ /name=systemd/{print $2}' /proc/mounts; }
cg_enter()  { local m; for m in $(cg_mounts); do mkdir -p "$m/tb-$1"; echo "$BASHPID" > "$m/tb-$1/cgroup.procs"; done; }
cg_remove() { # whatever is still in there dies (cgroup.kill: Linux 5.14), then the nodes go
  local m; for m in $(cg_mounts); do
    [ -d "$m/tb-$1" ] || continue
    [ -e "$m/tb-$1/cgroup.kill" ] && echo 1 > "$m/tb-$1/cgroup.kill" 2>/dev/null || true
    for _ in $(seq 40); do find "$m/tb-$1" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.05; done
  done; return 0; }

# ---------------------------------------------------------------- machines
m_dir()    { echo "$ROOTS/machine/$1"; }
m_leader() { local l; l=$(cat "$(m_dir "$1")/leader" 2>/dev/null) && [ -e "/proc/$l/ns/pid" ] && echo "$l"; }
m_inside() { local l; l=$(m_leader "$1") || die "machine $1 is not running"; shift
  # Nothing of the environment of whoever calls: it speaks of another machine.
  nsenter -t "$l" -m -u -i -n -p -C -- env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

m_mount() {            # the machine's disk: base below, own overlay above
  local d=$1 rw=$1
  mkdir -p "$d/upper" "$d/work" "$d/root"
  mountpoint -q "$d/root" && return
  if mount -t overlay "tb-${d##*/}" -o "lowerdir=$(base),upperdir=$d/upper,workdir=$d/work" "$d/root" 2>/dev/null; then return; fi
  rw=$d/mem; mkdir -p "$rw"; mountpoint -q "$rw" || mount -t tmpfs -o mode=755 tmpfs "$rw"   # e.g. ROOTS is itself on an overlay
  mkdir -p "$rw/upper" "$rw/work"
  mount -t overlay "tb-${d##*/}" -o "lowerdir=$(base),upperdir=$rw/upper,workdir=$rw/work" "$d/root"
}

m_start() {
  local name=$1 d t ns l state opt=() b; d=$(m_dir "$name"); t=$(now)
  m_leader "$name" >/dev/null && die "machine $name already runs"
  if [ -e "$d/suite" ]; then SUITE=$(cat "$d/suite"); fi        # a kept disk: this is a reboot
  build
  mkdir -p "$d"; echo "$SUITE" > "$d/suite"; m_mount "$d"
  for b in "${BINDS[@]}"; do opt+=("$b"); done
  (
    cg_enter "$name"
    # UNIFIED: a pure cgroup2 tree inside even where the host is hybrid. CAP_BPF + bpf(): so that the guest's systemd can
    # load its DeviceAllow=/IPAddressAllow= cgroup programs. @keyring: KeyringMode=private.
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_LOG_LEVEL=notice
    # shellcheck disable=SC2086
    exec setsid systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$d/root" --machine="tb-$name" \
      --private-network --capability=CAP_BPF,CAP_PERFMON,CAP_IPC_LOCK,CAP_SYSLOG \
      --system-call-filter='bpf @keyring perf_event_open' \
      --resolv-conf=off --timezone=off --link-journal=no --console=read-only "${opt[@]}" \
      </dev/null >"$d/console.log" 2>&1
  ) &
  ns=$!; echo "$ns" > "$d/nspawn"; l=
  for _ in $(seq 400); do
    l=$(pgrep -P "$ns" -x systemd | head -n1 || true)
    [ -n "$l" ] && [ -S "/proc/$l/root/run/systemd/private" ] && break
    l=
    kill -0 "$ns" 2>/dev/null || { tail -n 30 "$d/console.log" >&2; m_cleanup "$name"; die "systemd-nspawn ended"; }
    sleep 0.05
  done
  [ -n "$l" ] || { tail -n 30 "$d/console.log" >&2; m_reap "$ns"; m_cleanup "$name"; die "no systemd after 20 s"; }
  echo "$l" > "$d/leader"
  state=$(m_inside "$name" timeout 60 systemctl is-system-running --wait || true)
  say "machine $name ($SUITE, $(m_inside "$name" systemctl --version | sed -n '1s/ (.*//p')) $state after $(ms "$t") ms"
  [ "$state" = running ] || m_inside "$name" systemctl --no-pager --failed >&2 || true
}

m_reap() {             # wait for the supervisor to end, at most 5 s
  [ -n "${1:-}" ] || return 0
  for _ in $(seq 100); do [ -d "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null || break; sleep 0.05; done
  if [ -d "/proc/$1" ]; then kill -KILL "$1" 2>/dev/null || true; fi; wait "$1" 2>/dev/null || true; }

m_cleanup() {          # after PID 1 has gone: cgroups, mounts, run-time folders
  local name=$1 d; d=$(m_dir "$name")
  cg_remove "$name"
  mountpoint -q "$d/root" && { umount "$d/root" 2>/dev/null || umount -l "$d/root"; }
  if [ "$KEEP" != 1 ] && mountpoint -q "$d/mem"; then umount "$d/mem"; fi
  rm -rf "/run/systemd/nspawn/propagate/tb-$name" "/run/systemd/nspawn/unix-export/tb-$name"
  rm -f "$d/leader" "$d/nspawn"
  [ "$KEEP" = 1 ] || rm -rf --one-file-system "$d"
  return 0
}

m_evict() {            # end what `exec`/`run` left inside: a stopped nsenter would otherwise hold up the end of the pid namespace
  local ns p; ns=$(readlink "/proc/$2/ns/pid"); ns=${ns#pid:[}; ns=${ns%]}
  while read -r p; do p=${p#/proc/}; p=${p%%/*}
    grep -q "/tb-$1/payload" "/proc/$p/cgroup" 2>/dev/null || kill -KILL "$p" 2>/dev/null || true
  done < <(find /proc -maxdepth 3 -path '/proc/[0-9]*/ns/pid' -lname "pid:\\[$ns\\]" 2>/dev/null)
}

m_stop() {
  local name=$1 l n t; t=$(now)
  [ -d "$(m_dir "$name")" ] || die "no machine $name"
  n=$(cat "$(m_dir "$name")/nspawn" 2>/dev/null || true)
  if l=$(m_leader "$name"); then
    m_evict "$name" "$l"
    m_inside "$name" systemctl --no-block poweroff >/dev/null 2>&1 || kill -s RTMIN+4 "$l" 2>/dev/null || true
    for _ in $(seq 400); do [ -e "/proc/$l/ns/pid" ] || break; sleep 0.05; done
    if [ -e "/proc/$l/ns/pid" ]; then say "machine $name did not power off in 20 s: killed"; kill -KILL "$l" 2>/dev/null || true; fi
  fi
  m_reap "$n"; m_cleanup "$name"; say "machine $name down in $(ms "$t") ms"
}

m_kill() { local l n; l=$(m_leader "$1") || die "machine $1 is not running"; n=$(cat "$(m_dir "$1")/nspawn")
           kill -KILL "$l"; KEEP=1; m_reap "$n"; m_cleanup "$1"; }

opts() { while [ $# -gt 0 ]; do case $1 in
    -s) SUITE=$2; shift 2;; -k) KEEP=1; shift;; -f) FORCE=1; shift;;
    -b) BINDS+=("--bind-ro=$(realpath "${2%%:*}"):${2#*:}"); shift 2;; -B) BINDS+=("--bind=$(realpath "${2%%:*}"):${2#*:}"); shift 2;;
    --) shift; break;; -*) die "unknown option $1";; *) break;; esac; done; REST=("$@"); }

[ $# -gt 0 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2; }
verb=$1; shift
if [ "$verb" = exec ] || [ "$verb" = net ]; then REST=("$@"); else opts "$@"; fi; set -- "${REST[@]}"
[ "$verb" = check ] || why=$(able) || die "$why"
case $verb in
  check) able;;
  build) build;;
  start) [ $# = 1 ] || die "start NAME"; m_start "$1";;
  exec)  [ $# -ge 2 ] || die "exec NAME CMD"; m_inside "$@";;
  net)   [ $# -ge 2 ] || die "net NAME CMD"; l=$(m_leader "$1") || die "machine $1 is not running"; shift; exec nsenter -t "$l" -n -- "$@";;
  stop)  [ $# = 1 ] || die "stop NAME"; m_stop "$1";;
  kill)  [ $# = 1 ] || die "kill NAME"; m_kill "$1";;
  clean) for d in "$ROOTS"/machine/*/; do [ -d "$d" ] && m_stop "$(basename "$d")"; done; rm -rf --one-file-system "$ROOTS";;
  *)     die "unknown verb $verb";;
esac
