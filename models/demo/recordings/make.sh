#!/bin/sh
# Makes this folder's recordings of a whole ESC-10: fold 5, encoded smaller. Usage: make.sh ESC-10 OUT
set -eu
cd "$1"
for from in */5-*.ogg; do
    mkdir -p "$2/$(dirname "$from")"
    # Bit-exact: no random serial number in the container, so that the same encoder makes the same file.
    ffmpeg -nostdin -loglevel error -y -i "$from" -map_metadata -1 -bitexact -ac 1 -ar 44100 \
        -c:a libvorbis -qscale:a 0 "$2/$from"
done
