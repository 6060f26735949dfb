#!/usr/bin/env bash
# What the tests of the control API and its console need beside Debian's packages: schemathesis in an environment of its own,
# playwright-core and axe-core, below $CALLBOX_CACHE/peers. Nothing of them enters the product, and no browser is fetched:
# Debian's is driven. What is there already is left as it is. Prints nothing when all is there.
set -euo pipefail
peers=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}/peers

if ! "$peers/schemathesis/bin/python" -c 'import schemathesis' 2>/dev/null; then
    echo "test: installing schemathesis into $peers/schemathesis" >&2
    python3 -m venv "$peers/schemathesis"
    "$peers/schemathesis/bin/python" -m pip install --quiet --disable-pip-version-check schemathesis==4.32.5
fi
if [ ! -e "$peers/console/node_modules/axe-core" ] || [ ! -e "$peers/console/node_modules/playwright-core" ]; then
    echo "test: installing playwright-core and axe-core into $peers/console" >&2
    mkdir -p "$peers/console"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$peers/console" \
        playwright-core@1.65.1 axe-core@4.14.1 >/dev/null
fi
