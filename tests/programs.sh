#!/bin/sh
# What some tests run besides Python: a browser and a database server. Installs those that are missing, where this may;
# elsewhere says what to install. Without them those tests skip, and say so.
missing=""
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="chromium"
command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -z "$missing" ] && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing for the tests: $missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update -qq; apt-get install -y -qq --no-install-recommends $missing; } >/dev/null && exit 0
fi
echo "tests that need $missing will be skipped; install it to run them (Debian: sudo apt-get install $missing)" >&2
