# shellcheck shell=bash disable=SC2154
# Part of test.sh: the packages as files. Enters: the executables; leaves: packages of this version and of a later one in
# $work/now and $work/next, a signed repository in $work/now, and what their linters say.

make_packages() {
    # Packed loosely: what is in them is what is tested.
    export FAST=1
    local key=$work/key.asc
    mkdir -m 700 "$work/gnupg"
    GNUPGHOME=$work/gnupg gpg --batch --quiet --passphrase '' --quick-generate-key 'Callbox, a key for tests' rsa3072 sign never
    GNUPGHOME=$work/gnupg gpg --batch --armor --export-secret-keys >"$key"
    GNUPGHOME=$work/gnupg gpgconf --kill all
    export CALLBOX_SIGNING_KEY=$key
    holds "packages are built" packaging/build.sh "$work/now" || return
    holds "packages are built again" packaging/build.sh "$work/again"
    holds "a later version is built" packaging/build.sh -v 99.0.0 "$work/next"
    deb=$(echo "$work"/now/*.deb) rpm=$(echo "$work"/now/*.rpm)
    [ -f "$deb" ] && [ -f "$rpm" ] || return
    holds "the .deb is the same bytes both times" cmp "$deb" "$work/again/${deb##*/}"
    holds "the .rpm is the same bytes both times" cmp "$rpm" "$work/again/${rpm##*/}"
    holds "the repositories are signed" packaging/publish.sh "$work/now"
}

check_packages() {
    holds "lintian has nothing to say" lintian --fail-on error,warning "$deb"
    holds "rpmlint has nothing to say" rpmlint --strict --config packaging/rpmlint.toml "$rpm"
    is "apt asks no question: no debconf" "$(dpkg-deb --ctrl-tarfile "$deb" | tar -t | grep -E 'config|templates')" ""
    is "an upgrade finds no file of the owner's but ufw's" "$(dpkg-deb --info "$deb" conffiles)" /etc/ufw/applications.d/callbox
    local command missing= pages
    pages=$(dpkg-deb --contents "$deb")
    for command in callbox.1 callboxd.8 callbox-engine.8 callbox.toml.5 callbox-agent.5; do
        grep -q "/$command.gz$" <<<"$pages" || missing+=" $command"
    done
    for command in $("$CARGO_TARGET_DIR/release/callbox" --help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on && $1 != "help" { print $1 }'); do
        grep -q "/callbox-$command.1.gz$" <<<"$pages" || missing+=" callbox-$command.1"
    done
    is "every command and every file has a man page" "$missing" ""
    is "both packages hold the same files" "$(diff <(deb_files) <(rpm_files))" ""
    has "the .rpm wants what the engine starts" "$(rpm -qp --requires "$rpm" 2>/dev/null)" espeak-ng
    mkdir "$work/rpmdb"
    rpm --dbpath "$work/rpmdb" --import "$work/now/callbox.asc"
    has "the .rpm's signature holds" "$(rpm --dbpath "$work/rpmdb" -K "$work"/now/rpm/*.rpm)" "digests signatures OK"
}

# Without what one family of distributions has and the other has not, or in another place.
deb_files() { dpkg-deb --contents "$deb" | awk '!/^d/ { print substr($6, 2) }' | common; }
rpm_files() { rpm -qp --queryformat '[%{FILEMODES:perms} %{FILENAMES}\n]' "$rpm" 2>/dev/null | awk '!/^d/ { print $2 }' | common; }
common() {
    grep -v -E '/ufw/|/lintian/|/doc/callbox/(copyright|changelog)|/share/licenses/|/etc/ufw' |
        sed 's,/zsh/[a-z-]*/,/zsh/,; s,^/lib/,/usr/lib/,' | sort
}
