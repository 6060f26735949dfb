#!/usr/bin/env bash
# The repositories. Enters: the packages in a folder (dist); leaves: below it apt/ and rpm/, signed, with the public key
# callbox.asc, and beside each package the signature of sign.sh, for `callbox upgrade --offline`. CALLBOX_SIGNING_KEY names a file with a secret OpenPGP key (RSA, armoured, no passphrase); without it a
# key is made for this run and thrown away, which is enough for tests and for nothing else.
#   packaging/publish.sh [DIR]
set -euo pipefail
sign=$(realpath "$(dirname "$0")")/sign.sh
[ -z "${CALLBOX_UPDATE_KEY:-}" ] || CALLBOX_UPDATE_KEY=$(realpath "$CALLBOX_UPDATE_KEY")
cd "${1:-$(dirname "$0")/../dist}"

GNUPGHOME=$(mktemp -d)
export GNUPGHOME
trap 'gpgconf --kill all; rm -rf "$GNUPGHOME"' EXIT
gpg=(gpg --batch --yes --quiet)
if [ -n "${CALLBOX_SIGNING_KEY:-}" ]; then
    "${gpg[@]}" --import "$CALLBOX_SIGNING_KEY"
else
    echo "publish: no CALLBOX_SIGNING_KEY: signing with a key for tests that is thrown away" >&2
    "${gpg[@]}" --passphrase '' --quick-generate-key 'Callbox, a key for tests' rsa3072 sign never
fi
rm -rf apt rpm
mkdir -p apt/pool apt/dists/stable/main/binary-amd64 rpm
"${gpg[@]}" --armor --export >callbox.asc
cp callbox.asc apt/
cp callbox.asc rpm/

cp ./callbox*_*.deb apt/pool/
(
    cd apt
    packages=dists/stable/main/binary-amd64/Packages
    apt-ftparchive packages pool >$packages
    gzip -9nk $packages
    release=(-o APT::FTPArchive::Release::Origin=Callbox -o APT::FTPArchive::Release::Suite=stable
        -o APT::FTPArchive::Release::Codename=stable -o APT::FTPArchive::Release::Architectures=amd64
        -o APT::FTPArchive::Release::Components=main)
    apt-ftparchive "${release[@]}" release dists/stable >Release
    mv Release dists/stable/
    "${gpg[@]}" --clearsign --output dists/stable/InRelease dists/stable/Release
)

cp ./callbox-*.rpm rpm/
id=$("${gpg[@]}" --list-secret-keys --with-colons | awk -F: '$1 == "sec" { print $5; exit }')
rpmsign --define "_gpg_name $id" --define '__gpg /usr/bin/gpg' --addsign rpm/callbox-*.rpm >/dev/null
createrepo_c --quiet --simple-md-filenames rpm
"${gpg[@]}" --armor --detach-sign --output rpm/repodata/repomd.xml.asc rpm/repodata/repomd.xml
"$sign" "$PWD"/apt/pool/*.deb "$PWD"/rpm/*.rpm
echo "$PWD/apt $PWD/rpm"
