#!/bin/sh
# Makes this folder's recordings of a whole ESC-10: fold 5, encoded smaller by SoX, always to the same bytes.
# Usage: make.sh ESC-10 OUT, both absolute.
set -eu
cd "$1"
for from in */5-*.ogg; do
    mkdir -p "$2/$(dirname "$from")"
    sox -R "$from" -c 1 -C 0 --comment "" "$2/$from"
done
