#!/bin/sh
# What the image starts. `serve` (the default) first fetches the embedded models that are missing, then becomes the server,
# so that the server itself is process 1 and gets SIGTERM. Any other command of rtc-server runs as it is.
#
#   RTC_SERVER_FETCH_MODELS=0    do not fetch: they are in the image, or on a read-only volume
set -eu

if [ $# -eq 0 ]; then set -- serve; fi

if [ "$1" = serve ] && [ "${RTC_SERVER_FETCH_MODELS:-1}" != 0 ]; then
    # Process 1 ignores the signals that it has no handler for; without this, stopping during the download takes until
    # the runtime loses patience.
    trap 'kill $! 2>/dev/null || true; exit 143' TERM INT
    rtc-server models fetch &
    wait $!
    trap - TERM INT
fi
exec rtc-server "$@"
