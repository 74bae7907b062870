# Ends an engine when the process that started it dies. $1: the engine's tag, $2: the folder of shared memory. Told on stdin,
# one line each:
#   N                guard process group N
#   shm INODE NAME   the engine made this file in shared memory
#   gone             the group is empty, its number may be another's by now
#   ok               the engine was stopped in an orderly way: end
# End of file without ok: the starter is dead. POSIX sh only, so that dash, busybox and macOS run it alike.
trap '' HUP INT TERM
tag=$1 shm=$2 group= own=
while read -r line; do
	case $line in
	ok) exit 0 ;;
	gone) group= ;;
	shm*) own="$own${line#shm }
" ;;
	*) group=$line ;;
	esac
done

# look N sets state, parent, pgrp of a process from /proc/N/stat: "N (any name) state parent group ...".
look() {
	read -r s <"/proc/$1/stat" || return 1
	set -- ${s##*) }
	state=$1 parent=$2 pgrp=$3
	case $state in Z | X | '') return 1 ;; esac
}
know() {
	case $kin in *" $1 "*) ;; *) kin="$kin$1 " grown=1 ;; esac
	case $ever in *" $1 "*) ;; *) ever="$ever$1 " ;; esac
}
# find_kin adds to kin all processes of the group, of the tag, and their descendants. Without /proc kin stays empty.
find_kin() {
	for f in $(grep -lsF "OMNITEST_RUN=$tag" /proc/[0-9]*/environ); do
		f=${f#/proc/}
		know "${f%/environ}"
	done
	grown=1
	while [ $grown = 1 ]; do
		grown=0
		for f in /proc/[0-9]*; do
			pid=${f#/proc/}
			case $kin in *" $pid "*) continue ;; esac
			look "$pid" || continue
			case $kin in *" $parent "*) know "$pid" ;; esac
			[ "$pgrp" = "$group" ] && know "$pid"
		done
	done
}

# Shared memory outlives its makers, and its names do not tell whose it is: see shared_linux.go. held prints what processes
# map (inodes) and have open (paths), a line each; a process may be a pattern.
held() {
	for p in "$@"; do
		cat /proc/$p/maps
		ls -l /proc/$p/fd
	done | awk -v dir="$shm/" '
		NF > 5 && index($6, dir) == 1 { print $5 }
		NF > 1 && $(NF - 1) == "->" && index($NF, dir) == 1 { print $NF }'
}
# note adds to own, lines of "INODE NAME", what kin holds and what OpenMP registered for any process that ever was of it.
note() {
	own="$own$({
		held $kin
		echo
		ls -i "$shm"
	} | awk -v dir="$shm/" -v pids="$ever" '
		NF == 0 { files = 1; next }
		!files { held[$1] = 1; next }
		$2 ~ /^(psm_|sem\.mp-)/ && ($1 in held || dir $2 in held) { print $1, $2 }
		$2 ~ /^__KMP_REGISTERED_LIB_/ { split($2, w, "_"); if (index(pids, " " w[6] " ")) print $1, $2 }')
"
}
# clean removes what is in own, still the same file, and used by nobody.
clean() {
	case $own in *[0-9]*) ;; *) return ;; esac
	for name in $({
		held '[0-9]*'
		echo
		echo "$own" | sed '/^$/d'
		echo
		ls -i "$shm"
	} | awk -v dir="$shm/" '
		NF == 0 { part++; next }
		part == 0 { held[$1] = 1; next }
		part == 1 { own[$0] = 1; next }
		$1 " " $2 in own && ($2 ~ /^__KMP/ || !($1 in held || dir $2 in held)) { print $2 }'); do
		case $name in __KMP*)
			pid=${name#__KMP_REGISTERED_LIB_}
			look "${pid%%_*}" && continue
			;;
		esac
		rm -f "$shm/$name"
	done
}

# First round TERM, then KILL, a second apart, until nothing was found in two rounds. In three if the starter died
# before it could name the group: the engine may then be in the middle of being started and carry no tag yet. Ten at
# most, since an init that never reaps lets a group of zombies take signals for ever. Who is to be killed is stopped first,
# so that what it has in shared memory does not change between the look and the kill.
signal=TERM kin=" " ever=" " quiet=2 round=0
[ "$group" ] || quiet=3
while :; do
	find_kin
	hit= living=" "
	if [ -d "$shm" ]; then
		[ $signal = KILL ] && for pid in ${group:+"-$group"} $kin; do kill -s STOP -- "$pid"; done
		note
	fi
	[ "$group" ] && kill -s $signal -- "-$group" && hit=1
	for pid in $kin; do
		look "$pid" || continue
		living="$living$pid "
		[ "$pgrp" = "$group" ] || kill -s $signal "$pid" && hit=1
	done
	[ $signal = TERM ] && [ "$group" ] && kill -s CONT -- "-$group" # a stopped process sees its TERM only when it goes on
	kin=$living signal=KILL round=$((round + 1))
	[ "$hit" ] || quiet=$((quiet - 1))
	[ $quiet -gt 0 ] && [ $round -lt 10 ] || break
	sleep 1
done 2>/dev/null
[ -d "$shm" ] && clean 2>/dev/null
exit 0
