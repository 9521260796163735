#!/bin/sh
# Starts coturn with the secret from a file: on its command line every process of the machine could read it.
#
#   PUBLIC_ADDRESS    address of the media server as callers know it: the only one that is relayed to
#   MEDIA_ADDRESSES   instead of it: several, apart by spaces; also ranges such as 10.0.0.1-10.0.0.8
#   TURN_SECRET_FILE  file with the shared secret; several lines = several secrets, all of them taken
#   TURN_TLS_DIR      folder with certificate.pem and key.pem; without these there is no TURN over TLS
#   TURN_TLS_PORT     where that is (443)
set -eu
peers=${MEDIA_ADDRESSES:-${PUBLIC_ADDRESS:?the address of the media server is needed}}
secrets=$(grep -v '^[[:space:]]*$' "${TURN_SECRET_FILE:-/run/secrets/turn_secret}" | tr -d '\r \t') || true
[ -n "$secrets" ] || { echo "there is no TURN secret in ${TURN_SECRET_FILE:-/run/secrets/turn_secret}" >&2; exit 1; }
tls=${TURN_TLS_DIR:-/etc/coturn/tls}
umask 077
{
    cat /etc/coturn/turnserver.conf
    for peer in $peers; do printf 'allowed-peer-ip=%s\n' "$peer"; done
    printf '%s\n' "$secrets" | while read -r secret; do
        [ "${#secret}" -ge 32 ] || { echo "a TURN secret has ${#secret} characters; at least 32 are needed" >&2; exit 1; }
        printf 'static-auth-secret=%s\n' "$secret"
    done
    if [ -r "$tls/certificate.pem" ] && [ -r "$tls/key.pem" ]; then
        printf 'cert=%s\npkey=%s\n' "$tls/certificate.pem" "$tls/key.pem"
        [ -z "${TURN_TLS_PORT:-}" ] || printf 'tls-listening-port=%s\n' "$TURN_TLS_PORT"
    else
        echo "no TURN over TLS: there is no certificate.pem with its key.pem in $tls" >&2
        echo no-tls
    fi
} >/tmp/turnserver.conf
exec turnserver -c /tmp/turnserver.conf
