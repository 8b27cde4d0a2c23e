#!/bin/sh
#
# replica_ctl_rejoin.sh
#	  Makes a server in whose place a replica was promoted a standby of that
#	  replica.
#
#	  replica_ctl_rejoin.sh DIRECTORY
#
# A worker of the server writes DIRECTORY/plan and starts this, which outlives
# the server.  It stops the server, takes what it has more than the new
# primary out of its data directory (pg_rewind), and starts it as a standby.
# Run again after an interruption, as the same user, it goes on where it was.
#
# Whatever interrupts it, the server never comes up writable:
#
#	  until pg_rewind begins     the fence file is in place: it starts fenced;
#	  from then on               the data directory's mode has a bit (o+x)
#	                             with which no PostgreSQL server starts, and
#	                             which lets nobody read anything;
#	  when that is taken away    standby.signal is in place: a standby.
#
# pg_rewind makes the data directory the same as the new primary's, including
# configuration, certificates and logs.  So everything at its top that is not
# PostgreSQL's own is kept in DIRECTORY/aside meanwhile.
#
# DIRECTORY, next to the data directory, holds: plan (shell assignments), lock,
# rejoin.log; aside/ and the list "ours" of what is in it; wal/ with links to
# the server's WAL; unarchived/; the marks "begun" (pg_rewind may have),
# "rewound" and "done"; and "failed" with the reason if it had to give up.

set -u
set -f
umask 077
export LC_ALL=C
work=$1
now() { date '+%Y-%m-%d %H:%M:%S %Z'; }
say() { printf '%s  %s\n' "$(now)" "$*"; }

# A service manager that stops this server's unit ends all that runs in it, so
# this moves to a unit of its own if it can, and does not listen if it cannot.
trap '' HUP INT TERM
if [ "${2:-}" != moved ] && [ -x /usr/bin/systemd-run ] && grep -q '\.service$' /proc/self/cgroup 2>/dev/null; then
	rm -f "$work/moved"
	for manager in --user --system; do
		XDG_RUNTIME_DIR=/run/user/$(id -u) /usr/bin/systemd-run "$manager" --scope --quiet --collect \
			--no-ask-password /bin/sh "$0" "$work" moved </dev/null >/dev/null 2>&1
		[ ! -e "$work/moved" ] || exit 0
	done
fi
[ "${2:-}" != moved ] || : >"$work/moved"

exec </dev/null >>"$work/rejoin.log" 2>&1
cd /
. "$work/plan" || exit 1

# Programs that work on the data directory inherit the lock, so that they keep
# it if this is killed; the server, and what starts it, must not.
command -v flock >/dev/null || { say "FAILED: there is no program flock"; exit 1; }
exec 9>>"$work/lock"
flock -n 9 || { say "another run is at work"; exit 0; }
without_lock() { "$@" 9>&-; }

fail()
{
	say "FAILED: $*"
	say "When the cause is gone, go on with: sh $0 $work"
	printf '%s\n' "$*" >"$work/failed"
	sync
	exit 1
}

running()
{
	"$bindir/pg_ctl" status -D "$pgdata" >/dev/null
}

cluster_state()
{
	"$bindir/pg_controldata" -D "$pgdata" | sed -n 's/^Database cluster state: *//p'
}

# What the server was started with, for starting it again.
note_start()
{
	cp -p "$pgdata/postmaster.opts" "$work/postmaster.opts" || return
	pid=$(head -n 1 "$pgdata/postmaster.pid") || return
	log=$(readlink "/proc/$pid/fd/2") || return
	case $log in
		/*) [ -f "$log" ] && printf '%s\n' "$log" >"$work/server_log" ;;
	esac
}

stop_server()
{
	running || return 0
	note_start
	say "stopping the server"
	"$bindir/pg_ctl" stop -D "$pgdata" -m fast -w -t "$stop_timeout"
	running || return 0
	# An archiver or a walsender may hold it; by then all of it is on disk.
	[ "$(cluster_state)" = "shut down" ] || return 1
	say "its data is shut down, but something keeps it from ending: ending it"
	"$bindir/pg_ctl" stop -D "$pgdata" -m immediate -w -t 60
	! running
}

start_server()
{
	server_log=$work/server.log
	[ ! -s "$work/server_log" ] || server_log=$(cat "$work/server_log")
	if [ -n "$restart_command" ]; then
		say "starting the server: $restart_command"
		set -- $restart_command
		without_lock "$@"
	else
		say "starting the server with pg_ctl"
		options=
		if [ -s "$work/postmaster.opts" ]; then
			# as pg_ctl restart takes it: all after the program, quoted there
			options=$(sed -n '1s/^[^"]* "/"/p' "$work/postmaster.opts")
		fi
		without_lock "$bindir/pg_ctl" start -D "$pgdata" -w -t 600 -l "$server_log" ${options:+-o "$options"}
	fi
	i=0
	while [ $i -lt 60 ]; do
		running && return 0
		i=$((i + 1))
		sleep 0.5
	done
	return 1
}

# Names at the top of the data directory that are not PostgreSQL's own.
not_postgres()
{
	ls -A "$pgdata" | while IFS= read -r name; do
		case $name in
			pg_hba.conf | pg_ident.conf) ;;
			pg_*) [ -d "$pgdata/$name" ] && continue ;;
			base | global | PG_VERSION | lost+found) continue ;;
			postmaster.* | standby.signal | recovery.signal | current_logfiles) continue ;;
			# a copy of the fence file counts as another server's
			replica_ctl.fence*) continue ;;
			backup_label* | tablespace_map* | backup_manifest*) continue ;;
		esac
		printf '%s\n' "$name"
	done
}

# Directories are moved, files copied: without them a server could not even start fenced.
save_own_files()
{
	mkdir -p "$work/aside" || return
	not_postgres >"$work/names" || return
	while IFS= read -r name; do
		[ -e "$pgdata/$name" ] || [ -L "$pgdata/$name" ] || continue
		rm -rf "$work/aside/.partial"
		if [ -d "$pgdata/$name" ] && [ ! -L "$pgdata/$name" ]; then
			[ ! -e "$work/aside/$name" ] || continue
			mv "$pgdata/$name" "$work/aside/.partial" || return
		else
			cp -pP "$pgdata/$name" "$work/aside/.partial" || return
		fi
		mv -T "$work/aside/.partial" "$work/aside/$name" || return
	done <"$work/names"
	ls -A "$work/aside" >"$work/ours"
}

restore_own_files()
{
	not_postgres >"$work/names" || return
	while IFS= read -r name; do
		grep -qxF -e "$name" "$work/ours" || rm -rf "${pgdata:?}/$name" || return
	done <"$work/names"
	while IFS= read -r name; do
		[ -e "$work/aside/$name" ] || [ -L "$work/aside/$name" ] || continue
		rm -rf "${pgdata:?}/$name" || return
		mv -T "$work/aside/$name" "$pgdata/$name" || return
	done <"$work/ours"
}

# pg_rewind reads the WAL of this server and removes it at the end.  If it is
# killed there, the next run needs it again.
keep_wal()
{
	rm -rf "$work/wal"
	cp -al "$pgdata/pg_wal/." "$work/wal" 2>/dev/null || rm -rf "$work/wal"
}

# WAL that the archive has not got must not be lost with the old pg_wal.
keep_unarchived()
{
	ls "$pgdata/pg_wal/archive_status" | sed -n 's/\.ready$//p' >"$work/names"
	[ -s "$work/names" ] || return 0
	mkdir -p "$work/unarchived" || return
	while IFS= read -r name; do
		[ -e "$work/unarchived/$name" ] || cp -p "$pgdata/pg_wal/$name" "$work/unarchived/$name" || return
	done <"$work/names"
	say "WAL files that were not archived are kept in $work/unarchived:" $(cat "$work/names")
}

bring_wal_back()
{
	[ -d "$work/wal" ] || return 0
	ls "$work/wal" | grep -xE '[0-9A-F]{24}' | while IFS= read -r name; do
		[ -e "$pgdata/pg_wal/$name" ] || ln "$work/wal/$name" "$pgdata/pg_wal/$name"
	done
}

rewind()
{
	# The control file is the last that pg_rewind writes: it was killed after it.
	[ "$(cluster_state)" != "in archive recovery" ] || return 0
	bring_wal_back
	for try in 1 2 3; do
		rewind_once && return 0
		sleep 2
	done
	return 1
}

rewind_once()
{
	set -- "$@" --target-pgdata="$pgdata" --source-server="$source"
	[ -z "$config_file" ] || set -- "$@" --config-file="$config_file"
	[ "$fsync" = on ] || set -- "$@" --no-sync
	"$bindir/pg_rewind" "$@"
}

# As long as the bit is there, no server starts in the data directory.
lock_directory() { chmod o+x "$pgdata"; }
unlock_directory() { chmod o-x "$pgdata"; }

# Up to here nothing has been changed: the server can be used, fenced.
back_out()
{
	if [ -d "$work/aside" ]; then
		ls -A "$work/aside" | while IFS= read -r name; do
			[ -e "$pgdata/$name" ] || mv -T "$work/aside/$name" "$pgdata/$name"
		done
	fi
	rm -rf "$work/aside" "$work/wal"
	unlock_directory
	start_server
	fail "$1"
}

# The server is stopped, nobody can start it, and what it needs is kept.
begin()
{
	unlock_directory
	stop_server || fail "the server does not stop: end what holds it"
	if [ "$(cluster_state)" != "shut down" ]; then
		say "it was not shut down cleanly: starting it once more, fenced"
		start_server && stop_server
		[ "$(cluster_state)" = "shut down" ] || fail "the server in $pgdata cannot be shut down cleanly"
	fi
	rewind_once --dry-run || back_out "pg_rewind cannot work: see $work/rejoin.log"
	lock_directory || fail "could not change the mode of $pgdata"
	if running || [ "$(cluster_state)" != "shut down" ]; then
		unlock_directory
		fail "somebody has started the server again"
	fi
	keep_wal
	keep_unarchived || back_out "could not keep WAL that was not archived in $work/unarchived"
	save_own_files || back_out "could not keep the server's own files in $work/aside"
	: >"$work/begun"
}

become_standby()
{
	if [ ! -e "$work/rewound" ]; then
		say "taking back what this server has and the new primary has not"
		if ! rewind; then
			: >"$pgdata/standby.signal"
			fail "pg_rewind failed half-way: nothing in $pgdata can be used until it has succeeded"
		fi
		: >"$work/rewound"
	fi
	say "putting the server's own files back"
	restore_own_files || fail "could not put the files in $work/aside back into $pgdata"
	for slot in $slots; do
		rm -rf "$pgdata/pg_replslot/$slot"
	done
	rm -f "$pgdata/recovery.signal"
	: >"$pgdata/standby.signal" || fail "could not make $pgdata/standby.signal"
	[ "$fsync" != on ] || sync
	rm -f "$pgdata/replica_ctl.fence" "$pgdata/replica_ctl.fence.new"
	unlock_directory || fail "could not change the mode of $pgdata"
	: >"$work/done"
}

rm -f "$work/failed"
say "---- making the server in $pgdata a standby of $new_primary"
if [ ! -e "$work/done" ]; then
	[ -e "$work/begun" ] || begin
	become_standby
fi
start_server || fail "the server in $pgdata does not start: see its log"
rm -rf "$work/aside" "$work/wal" "$work/begun" "$work/rewound" "$work/names" "$work/ours" \
	"$work/moved" "$work/postmaster.opts" "$work/server_log" "$work/plan" "$work/done"
say "---- this server is a standby now"
