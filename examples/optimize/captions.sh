#!/bin/sh
# A scorer in a few lines of shell: how many of some words a text has, and how many words in all.
#
# A line is {"id":7,"text":"a small green duck"}; an empty one ends a batch, and needs no answer from one who answers
# each line at once.
while read -r line; do
    [ -n "$line" ] || continue
    id=${line#*:} id=${id%%,*}
    text=${line#*\"text\":\"} text=${text%\"\}}
    wanted=0
    for word in small green duck snow; do
        case " $text " in *[\ ,]"$word"[\ ,]*) wanted=$((wanted + 1)) ;; esac
    done
    # shellcheck disable=SC2086 # the words of it
    set -- $text
    echo "{\"id\":$id,\"scores\":{\"wanted\":$wanted,\"words\":$#}}"
done
