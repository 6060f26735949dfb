# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: what reaches a machine without a network. Model packs and packages as signed files: good ones, in the
# middle of calls; ones that do not work, which go by themselves; ones that somebody else has made; daemon and engine in two
# packages, which go together. Enters: the packages of this version and of 99.0.0 (files.sh), the pack `tiny`; leaves: a line
# for each thing that must hold.

on_update_machine() {
    local suite=$1
    machine=updates-$suite
    gifts=$work/gifts
    if ! make_gifts >"$work/log" 2>&1; then
        fail "$suite: updates to install" "$(tail -n 3 "$work/log")"
        machine=
        return
    fi
    if ! "$bed" start -s "$suite" -b "$gifts:/opt/gifts" "$machine"; then
        fail "$suite: a machine for updates boots"
        machine=
        return
    fi
    echo "--- $suite, updates, $(x systemctl --version | head -n 1)"
    x sh -c 'echo "deb [trusted=yes] file:/opt/archive ./" >/etc/apt/sources.list.d/archive.list
        apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install /opt/gifts/callbox_'"$present"'_amd64.deb
        printf "%s\n" "[models]" "pack = \"tiny\"" >/etc/callbox/callbox.toml
        sed "s/^max_tokens = .*/max_tokens = 15/" /usr/lib/callbox/agents/frontdesk.toml >/etc/callbox/agents/frontdesk.toml' \
        >"$work/log" 2>&1
    installs_packs
    refuses_packs
    refuses_packages
    fails_and_is_undone
    goes_forward_and_back
    goes_with_its_engine
    x sh -c 'DEBIAN_FRONTEND=noninteractive apt-get -q -y purge callbox callbox-engine-cuda' >/dev/null 2>&1
    is "$suite: purged: no package is kept" "$(x sh -c 'ls -d /var/lib/callbox-packages /etc/callbox 2>&1 | grep -c "No such"')" 2
    "$bed" stop "$machine"
    machine=
    rm -rf "$gifts"
}

# ---------------------------------------------------------------- what is sent to the machine
make_gifts() {
    local built=${packages:-$work} version
    mkdir -p "$gifts/strange" "$gifts/cut"
    cp "$built"/now/callbox_*.deb "$built"/next/callbox_*.deb "$gifts/" || return
    remake 99.0.1 'printf "#!/bin/sh\nexit 1\n" >usr/sbin/callboxd' || return
    remake 99.0.2 'printf "[engine]\nkind = \"scripted\"\nscript = \"/usr/lib/callbox/deaf.toml\"\n" >usr/lib/callbox/callbox.toml
        printf "[[answer]]\nheard = \"\"\nsay = \"\"\n" >usr/lib/callbox/deaf.toml' || return
    remake 99.1.0 true || return
    make_engines || return
    for version in 1.0.0 1.1.0; do
        CALLBOX_MODELS=$models "$CARGO_TARGET_DIR/release/callbox" models pack tiny "$version" --out "$gifts" || return
    done
    spoil || return
    packaging/sign.sh "$gifts"/*.deb "$gifts"/*.tar.zst || return
    for version in 99.0.1 99.1.0; do
        mkdir "$gifts/$version" && ln "$gifts"/callbox*_$version-1_amd64.deb* "$gifts/$version/" || return
    done
    # Not what was signed; signed by nobody whom the machine knows; without its signature.
    head -c 5000000 "$gifts/callbox-tiny-1.1.0.tar.zst" >"$gifts/cut/callbox-tiny-1.1.0.tar.zst"
    cp "$gifts/callbox-tiny-1.1.0.tar.zst.minisig" "$gifts/cut/"
    sed 's/99[.]0[.]0/99.0.9/' "$gifts/callbox_99.0.0-1_amd64.deb" >"$gifts/cut/callbox_99.0.0-1_amd64.deb"
    printf x >>"$gifts/cut/callbox_99.0.0-1_amd64.deb"
    cp "$gifts/callbox_99.0.0-1_amd64.deb.minisig" "$gifts/cut/"
    for file in callbox_99.0.0-1_amd64.deb callbox-tiny-1.1.0.tar.zst; do ln "$gifts/$file" "$gifts/strange/$file" || return; done
    minisign -G -W -p "$work/strange.pub" -s "$work/strange.key" >/dev/null || return
    minisign -S -s "$work/strange.key" -m "$gifts"/strange/*[bt] >/dev/null
}

# remake VERSION EDIT: the later package with something wrong in it.
remake() {
    local tree=$work/tree
    rm -rf "$tree"
    dpkg-deb --raw-extract "$gifts"/callbox_99.0.0-1_amd64.deb "$tree" || return
    (cd "$tree" && eval "$2" && sed -i "s/^Version: .*/Version: $1-1/" DEBIAN/control && rm -f DEBIAN/md5sums) || return
    dpkg-deb -Zgzip --root-owner-group --build "$tree" "$gifts/callbox_$1-1_amd64.deb"
}

# callbox-engine-cuda in three versions. The engine in it is that of the processor, because nothing here has a card, and so are
# four empty libraries and an empty licence NVIDIA's: what is tried is how two packages go together.
make_engines() {
    local engine=$work/engine tree=$work/tree library version built=1767225600
    mkdir -p "$engine/libexec/callbox" "$engine/lib/callbox/cuda" "$work/cuda"
    cp "$CARGO_TARGET_DIR/release/callbox-engine" "$engine/libexec/callbox/callbox-engine-cuda" || return
    for library in libcublas.so.13 libcublasLt.so.13 libcudart.so.13 libcurand.so.10; do
        cc -shared -s -x c "-Wl,-soname,$library" -o "$engine/lib/callbox/cuda/$library" /dev/null || return
    done
    : >"$engine/NVIDIA-EULA"
    packaging/cuda/package.sh -e "$engine" "$work/cuda" || return
    for version in 99.0.0 99.0.1 99.1.0; do
        rm -rf "$tree"
        dpkg-deb --raw-extract "$work"/cuda/*.deb "$tree" || return
        # Another build is another engine, by its time; so the next daemon does not take the old one over.
        built=$((built + 1))
        touch -d "@$built" "$tree/usr/libexec/callbox/callbox-engine-cuda" && sed -i "s/^Version: .*/Version: $version-1/" "$tree/DEBIAN/control" &&
            dpkg-deb -Zgzip --root-owner-group --build "$tree" "$gifts/callbox-engine-cuda_$version-1_amd64.deb" || return
    done
}

# tiny 1.2.0, whole and well signed, with a language model whose numbers are noise: it loads, and speaks nonsense.
spoil() {
    local tree=$work/tree
    rm -rf "$tree"
    mkdir "$tree"
    tar --zstd -xf "$gifts/callbox-tiny-1.1.0.tar.zst" -C "$tree" || return
    python3 - "$tree" <<'PYTHON' || return
import hashlib, pathlib, sys
tree = pathlib.Path(sys.argv[1])
weights = next(tree.glob("*/*.gguf"))
content = bytearray(weights.read_bytes())
before = hashlib.sha256(content).hexdigest()
# Half of each byte is turned over: all numbers stay finite, and none is what it was.
content[20_000_000:90_000_000] = content[20_000_000:90_000_000].translate(bytes(byte ^ 15 for byte in range(256)))
weights.write_bytes(content)
manifest = tree / "pack.toml"
text = manifest.read_text().replace("1.1.0", "1.2.0").replace(before, hashlib.sha256(content).hexdigest())
manifest.write_text(text)
PYTHON
    tar --zstd -tf "$gifts/callbox-tiny-1.1.0.tar.zst" >"$work/entries"
    tar --zstd --format=ustar -cf "$gifts/callbox-tiny-1.2.0.tar.zst" -C "$tree" --no-recursion --files-from "$work/entries"
    rm -rf "$tree"
}

# ---------------------------------------------------------------- what the machine does with it
# The version whose files the engine that started last has open.
serves() {
    x sh -c 'for one in /proc/[0-9]*; do
            case $(cat "$one/comm" 2>/dev/null) in callbox-engine*) echo "$(cut -d " " -f 22 "$one/stat") $one" ;; esac
        done | sort -n | tail -n 1 | { read -r _ one; tr "\0" "\n" <"$one/cmdline" | grep -o "packs/tiny/[^/]*" | head -n 1; }'
}
versions() { x sh -c 'ls -A /var/lib/callbox/models/packs/tiny | xargs'; }
version() { x dpkg-query --show --showformat '${Version}' callbox; }
# says WHAT SENTENCE CMD...: it fails with status 1 and that sentence, and says it last.
says() {
    local what=$1 sentence=$2 said status=0
    shift 2
    said=$(x "$@" 2>&1 >/dev/null) || status=$?
    is "$what: status 1" "$status" 1
    has "$what: says why" "$(tail -n 1 <<<"$said")" "$sentence"
}
# A caller who asks two things, so many times over, through whatever happens to the machine meanwhile.
rings() {
    x callbox dial sip:frontdesk@127.0.0.1 --unchecked --json --weights /var/tmp/weights --rounds "$1" --patience 30000 \
        --say "How much does a double room cost?" --say "Is there a garden?" >"$work/ring" 2>"$work/ring.err" &
    ringer=$!
    for _ in $(seq 100); do
        x callbox call list --json 2>/dev/null | grep -q '"state":"listening"' && return
        sleep 0.2
    done
}
rang() {
    wait "$ringer"
    is "$suite: $1: the call went on, and its last question was answered" "$(python3 -c '
import json, sys
report = json.load(sys.stdin)
print(report["cut_off"], report["answers"][-1]["voice_to_voice_ms"] is not None)' <"$work/ring")" "[] True"
}

installs_packs() {
    holds "$suite: a signed pack is installed without a network" x callbox models install /opt/gifts/callbox-tiny-1.0.0.tar.zst
    is "$suite: every byte of it is as it was signed" "$(x callbox models verify tiny | grep -c ' installed ')" 5
    holds "$suite: the service starts with it" x systemctl start callbox.service
    holds "$suite: a self-test call is answered" x callbox selftest
    rings 2
    holds "$suite: a later pack is installed in a call" x callbox models install /opt/gifts/callbox-tiny-1.1.0.tar.zst
    is "$suite: the daemon still has what it loaded" "$(serves)" packs/tiny/1.0.0
    is "$suite: root left nothing to root in the daemon's cache" "$(x find /var/cache/callbox ! -user callbox)" ""
    x systemctl restart callbox.service
    is "$suite: a restart loads the later one" "$(serves)" packs/tiny/1.1.0
    rang "a restart with another pack"
    is "$suite: the one before is kept" "$(versions)" "1.0.0 1.1.0 current previous"
    is "$suite: the same pack again changes nothing" "$(x callbox models install /opt/gifts/callbox-tiny-1.1.0.tar.zst)" \
        "pack tiny 1.1.0 is installed already; nothing has changed"
}

refuses_packs() {
    local install=(callbox models install)
    says "$suite: a pack that speaks nonsense" "did not pass its self-test, and what was in use still is: to" \
        "${install[@]}" /opt/gifts/callbox-tiny-1.2.0.tar.zst
    says "$suite: an older pack" "tiny 1.0.0 is older than 1.1.0" "${install[@]}" /opt/gifts/callbox-tiny-1.0.0.tar.zst
    says "$suite: half a pack" "is not what was signed" "${install[@]}" /opt/gifts/cut/callbox-tiny-1.1.0.tar.zst
    says "$suite: a stranger's pack" "signed with a key that is not trusted here" "${install[@]}" /opt/gifts/strange/callbox-tiny-1.1.0.tar.zst
    x sh -c 'mkdir /mnt/full && mount -t tmpfs -o size=100m tmpfs /mnt/full'
    says "$suite: a pack on a full disk" "the disk of /mnt/full is too full" "${install[@]}" --dir /mnt/full /opt/gifts/callbox-tiny-1.1.0.tar.zst
    is "$suite: nothing is left of it on the full disk" "$(x find /mnt/full -type f ! -name .lock)" ""
    is "$suite: nothing of them is left, what was in use is" "$(versions) $(serves)" "1.0.0 1.1.0 current previous packs/tiny/1.1.0"
    has "$suite: back to the pack before" "$(x callbox models rollback tiny | xargs)" "pack tiny 1.0.0 is in use again callboxd goes on"
    holds "$suite: the pack before works" x callbox models test tiny
}

refuses_packages() {
    local upgrade=(callbox upgrade --offline)
    says "$suite: an upgrade by somebody else than root" "is for root" \
        setpriv --reuid=callbox --regid=callbox --clear-groups "${upgrade[@]}" /opt/gifts/callbox_99.0.0-1_amd64.deb
    says "$suite: a changed package" "is not what was signed" "${upgrade[@]}" /opt/gifts/cut/callbox_99.0.0-1_amd64.deb
    says "$suite: a stranger's package" "signed with a key that is not trusted here" "${upgrade[@]}" /opt/gifts/strange/callbox_99.0.0-1_amd64.deb
    says "$suite: an upgrade without a way back" "give it with --previous FILE" "${upgrade[@]}" /opt/gifts/callbox_99.0.0-1_amd64.deb
    says "$suite: a rollback without an upgrade" "no earlier version is kept here" callbox rollback
    is "$suite: the version stays" "$(version)" "$present"
}

# One that dies, one that is up and deaf: both go by themselves.
fails_and_is_undone() {
    local start
    rings 3
    start=$(now)
    says "$suite: an upgrade to a daemon that dies" "$present is installed again and answers calls" \
        callbox upgrade --offline /opt/gifts/callbox_99.0.1-1_amd64.deb --previous "/opt/gifts/callbox_${present}_amd64.deb"
    echo "     back on the version before after $(seconds "$start") s"
    is "$suite: the version before is installed" "$(version)" "$present"
    rang "an upgrade that failed"
    says "$suite: an upgrade to a daemon that is deaf" "its ears understood nothing" \
        callbox upgrade --offline /opt/gifts/callbox_99.0.2-1_amd64.deb
    is "$suite: the version before is installed again" "$(version)" "$present"
    says "$suite: nothing to go back to but what is there" "no earlier version is kept here" callbox rollback
}

goes_forward_and_back() {
    local start
    rings 2
    start=$(now)
    holds "$suite: a good upgrade" x callbox upgrade --offline /opt/gifts/callbox_99.0.0-1_amd64.deb
    echo "     upgraded, with a backup and a self-test call, after $(seconds "$start") s"
    rang "a good upgrade"
    is "$suite: the later version is installed, both are kept" "$(version) $(x sh -c 'ls /var/lib/callbox-packages | xargs')" \
        "99.0.0-1 callbox_${present}_amd64.deb callbox_99.0.0-1_amd64.deb previous"
    is "$suite: a backup was made before" "$(x sh -c 'ls /var/lib/callbox/backups/*.zst | wc -l')" 3
    rings 2
    holds "$suite: a rollback" x callbox rollback
    rang "a rollback"
    is "$suite: the earlier version is installed" "$(version)" "$present"
    holds "$suite: and answers" x callbox selftest
    holds "$suite: forward again" x callbox rollback
    is "$suite: the later version is installed again" "$(version)" "99.0.0-1"
}

# Daemon and engine in two packages: both go forward, and both come back.
goes_with_its_engine() {
    local upgrade=(callbox upgrade --offline) start
    both() { x dpkg-query --show --showformat '${Version} ' callbox callbox-engine-cuda; }
    has "$suite: the engine's package is installed" "$(x sh -c 'DEBIAN_FRONTEND=noninteractive apt-get -q -y install \
        /opt/gifts/callbox-engine-cuda_99.0.0-1_amd64.deb 2>&1')" "Setting up callbox-engine-cuda"
    configure '[models]' 'pack = "tiny"' '[engine]' 'program = "/usr/libexec/callbox/callbox-engine-cuda"'
    holds "$suite: its engine serves" x systemctl restart callbox.service
    says "$suite: the daemon's package without the engine's" "callbox-engine-cuda 99.0.0-1 is installed here, and must be of callbox's version: give its package 99.1.0-1, too" \
        "${upgrade[@]}" /opt/gifts/callbox_99.1.0-1_amd64.deb
    says "$suite: the engine's package without the daemon's" "callbox-engine-cuda goes with callbox: give the package callbox 99.1.0-1, too" \
        "${upgrade[@]}" /opt/gifts/callbox-engine-cuda_99.1.0-1_amd64.deb
    says "$suite: two versions" "are not of one version" \
        "${upgrade[@]}" /opt/gifts/callbox_99.1.0-1_amd64.deb /opt/gifts/callbox-engine-cuda_99.0.1-1_amd64.deb
    says "$suite: both without a way back of both" "the package of callbox-engine-cuda 99.0.0-1, which is in use, is not at hand" \
        "${upgrade[@]}" /opt/gifts/99.1.0
    is "$suite: nothing has changed" "$(both) $(x sh -c 'ls /var/lib/callbox-packages | xargs')" \
        "99.0.0-1 99.0.0-1  callbox_${present}_amd64.deb callbox_99.0.0-1_amd64.deb previous"
    rings 5
    says "$suite: both, to a daemon that dies" "callbox 99.0.0-1 with callbox-engine-cuda is installed again and answers calls" \
        "${upgrade[@]}" /opt/gifts/99.0.1 --previous /opt/gifts/callbox-engine-cuda_99.0.0-1_amd64.deb
    is "$suite: both are those of before" "$(both)" "99.0.0-1 99.0.0-1 "
    start=$(now)
    holds "$suite: both, and both good" x "${upgrade[@]}" /opt/gifts/99.1.0
    echo "     both upgraded after $(seconds "$start") s"
    rang "two upgrades of daemon and engine"
    is "$suite: both are there" "$(both)" "99.1.0-1 99.1.0-1 "
    is "$suite: the engine that serves is the one that is installed" "$(x sh -c 'for one in /proc/[0-9]*; do
            case $(cat "$one/comm" 2>/dev/null) in callbox-engine*) echo "$(cut -d " " -f 22 "$one/stat") $(readlink "$one/exe")" ;; esac
        done | sort -n | tail -n 1 | cut -d " " -f 2-')" /usr/libexec/callbox/callbox-engine-cuda
    holds "$suite: both back" x callbox rollback
    is "$suite: both are back" "$(both)" "99.0.0-1 99.0.0-1 "
    holds "$suite: and answer" x callbox selftest
}

present=$(sed -n 's/^version = "\(.*\)"/\1-1/p' Cargo.toml | head -n 1)
