#!/usr/bin/env bash
# Signatures on what is installed without a repository: packages and model packs. Enters: files; leaves: FILE.minisig
# beside each. CALLBOX_UPDATE_KEY names a minisign secret key, NAME.key, with its public half NAME.pub beside it; the public
# half is in every package that is built with it. Without it a key is made for this computer and kept in the cache: good
# for machines that are fed from here, and for nobody else.
#   packaging/sign.sh FILE...
#   packaging/sign.sh --public          prints the path of the public key
set -euo pipefail
cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
key=${CALLBOX_UPDATE_KEY:-$cache/keys/callbox.key}
public=${key%.key}.pub
if [ ! -e "$public" ]; then
    if [ -n "${CALLBOX_UPDATE_KEY:-}" ]; then
        echo "sign: $public is missing: put the public half of CALLBOX_UPDATE_KEY there" >&2
        exit 1
    fi
    echo "sign: no CALLBOX_UPDATE_KEY: making a key for this computer, $key" >&2
    mkdir -p "${key%/*}"
    chmod 700 "${key%/*}"
    minisign -G -W -p "$public" -s "$key" >/dev/null
fi
if [ "${1:-}" = --public ]; then
    echo "$public"
else
    minisign -S -s "$key" -m "$@" >/dev/null
fi
