#!/bin/sh
# Starts coturn with the secret from a file: on its command line every process of the machine could read it.
#
#   PUBLIC_ADDRESS    address of the media server as callers know it: the only one that is relayed to
#   TURN_SECRET_FILE  file with the shared secret
set -eu
: "${PUBLIC_ADDRESS:?the address of the media server is needed}"
secret=$(cat "${TURN_SECRET_FILE:-/run/secrets/turn_secret}")
[ "${#secret}" -ge 32 ] || { echo "the TURN secret has ${#secret} characters; at least 32 are needed" >&2; exit 1; }
umask 077
{
    cat /etc/coturn/turnserver.conf
    printf 'allowed-peer-ip=%s\n' "$PUBLIC_ADDRESS"
    printf 'static-auth-secret=%s\n' "$secret"
} >/tmp/turnserver.conf
exec turnserver -c /tmp/turnserver.conf
