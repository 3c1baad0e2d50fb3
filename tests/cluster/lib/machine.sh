# Machines: making one, entering it, ending it.

initpid() { cat "$RUN/$1.init" 2>/dev/null; }

# A process number may belong to another process by now; one in our cgroup is ours.
alive() { local p; p=$(initpid "$1") && [ -n "$p" ] && grep -qsF "/$PREFIX.$1" "/proc/$p/cgroup"; }

inside() { # MACHINE CMD...: as one of its processes
  local m=$1 p; shift
  alive "$m" || { say "no machine $m is on: is the cluster up?"; return 1; }
  p=$(initpid "$m")
  ( while read -r d; do echo $BASHPID >"$d/cgroup.procs"; done <"$RUN/$m.cgroups"   # nsenter -C moves no process
    exec nsenter -t "$p" -m -u -i -n -p -C -r -w -- "$@" )
}

innet() { # MACHINE CMD...: in its network namespace only
  local m=$1; shift
  alive "$m" || { say "no machine $m is on: is the cluster up?"; return 1; }
  nsenter -t "$(initpid "$m")" -n -- "$@"
}

# One child of this shell's own cgroup per hierarchy (version 1, and version 2 at unified/ or alone), recorded for
# those who enter. Below its own, not below the root: what the shell may use, the machine may use.
enter_cgroups() { # MACHINE
  local m=$1 lines ctl path d
  lines=$(cat /proc/self/cgroup); : >"$RUN/$m.cgroups"
  while IFS=: read -r _ ctl path; do
    case $ctl in
      '') if [ -e /sys/fs/cgroup/cgroup.controllers ]; then d=/sys/fs/cgroup path=   # pure version 2: under the root
          else d=/sys/fs/cgroup/unified; fi ;;
      name=*) d=/sys/fs/cgroup/${ctl#name=} ;;
      *) d=/sys/fs/cgroup/$ctl ;;
    esac
    [ -d "$d" ] || continue
    d=${d}${path%/}/$PREFIX.$m
    mkdir -p "$d"; echo "$d" >>"$RUN/$m.cgroups"
    if [ "$ctl" = cpuset ]; then   # a new child's are empty, and nothing could move in
      cat "$d/../cpuset.cpus" >"$d/cpuset.cpus"; cat "$d/../cpuset.mems" >"$d/cpuset.mems"
    fi
    echo $BASHPID >"$d/cgroup.procs"
  done <<<"$lines"
  echo $BASHPID >"$RUN/$m.init"   # of a machine: its unshare, until that has a child
}

machine() { # NAME: starts it; its process 1 is `cluster.sh _init NAME`
  local m=$1 u
  mkdir -p "$RUN/$m"
  # Cgroups come before the cgroup namespace: its root is where the process then is.
  ( enter_cgroups "$m"
    exec setsid unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child \
      bash "$SELF" _init "$m" ) >"$RUN/$m/init.log" 2>&1 </dev/null 9>&- &
  u=$!; disown $u   # its end is nobody's news
  for _ in $(seq 200); do
    [ ! -s "$RUN/$m/ready" ] || break
    [ -d /proc/$u ] || { cat "$RUN/$m/init.log" >&2; die "machine $m does not start"; }
    sleep 0.05
  done
  [ -s "$RUN/$m/ready" ] || { cat "$RUN/$m/init.log" >&2; die "machine $m does not get ready"; }
  pgrep -P $u | head -1 >"$RUN/$m.init"
}

# Runs as process 1 of the machine.
_init() {
  local m=$1 D=$RUN/$1 c
  hostname "$m"
  mount --make-rprivate /
  mount -t proc proc /proc
  _sysctls "$D"
  _cgroups
  mount -t bpf -o mode=700 bpf /sys/fs/bpf
  mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || :
  # The same root file system, with this machine's own /etc, /opt, /run and state directories.
  mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/lock
  for c in etc opt; do
    mkdir -p "$D/$c.up" "$D/$c.wk"
    mount -t overlay -o "lowerdir=/$c,upperdir=$D/$c.up,workdir=$D/$c.wk" overlay "/$c"
  done
  for c in var/lib/kubelet var/lib/containerd var/lib/cni var/log; do
    mkdir -p "$D/$c"; [ -d "/$c" ] || mkdir -p "/$c"
    mount --bind "$D/$c" "/$c"
  done
  mount --make-rshared /   # the kubelet and its volumes' propagation need it
  printf '%s\n' "$m" >/etc/hostname
  { echo "127.0.0.1 localhost"; echo "$NET.1 cp"
    for c in $(seq $MAX_NODES); do echo "$NET.$((10 + c)) n$c"; done; } >/etc/hosts
  : >/etc/resolv.conf; mkdir -p /opt/cni/bin
  [ -e /etc/cni/.ours ] || { rm -rf /etc/cni; mkdir -p /etc/cni/net.d; touch /etc/cni/.ours; }   # first boot only
  ip link set lo up
  echo ok >"$D/ready"
  if [ "$m" = cp ]; then _cp; else _node "$m"; fi
  while :; do wait -n 2>/dev/null || sleep 1; done   # process 1: reap for ever
}

# The kubelet would set these for the whole machine: show it the values it wants instead.
_sysctls() { # DIR
  local f c
  mkdir -p "$1/sysctl"
  for f in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
           kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    c=${f%=*}; [ -e "/proc/sys/$c" ] || continue
    echo "${f#*=}" >"$1/sysctl/${c//\//.}"; mount --bind "$1/sysctl/${c//\//.}" "/proc/sys/$c"
  done
}

# A sysfs of this network namespace, and the cgroup hierarchies as this cgroup namespace sees them.
_cgroups() {
  local c
  mount -t sysfs sysfs /sys
  if grep -q '^[0-9]*:[^:]\+:' /proc/self/cgroup; then
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    while IFS=: read -r _ c _; do
      case $c in
        '') mkdir -p /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
        name=*) mkdir -p "/sys/fs/cgroup/${c#name=}"; mount -t cgroup -o "none,$c" cgroup "/sys/fs/cgroup/${c#name=}" ;;
        *) mkdir -p "/sys/fs/cgroup/$c"; mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" ;;
      esac
    done < <(cat /proc/self/cgroup)
  else   # pure version 2: leave the root, which may then delegate its controllers
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/init; echo 1 >/sys/fs/cgroup/init/cgroup.procs
    for c in cpu cpuset memory pids io hugetlb; do echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || :; done
  fi
}

# NAME CMD...: runs it for ever, logging, but not while it is stopped; called in a machine's process 1.
svc() {
  local n=$1; shift
  mkdir -p /run/services
  ( while :; do
      while [ -e "/run/services/$n.stopped" ]; do sleep 0.1; done
      "$@" >>"/var/log/$n.log" 2>&1 &
      echo $! >"/run/services/$n.pid"
      wait $! || :
      echo "$n ended" >>"/var/log/$n.log"; sleep 1
    done ) &
}

# Ends a service as a crash would, and keeps it from starting again.
stop() { # MACHINE SERVICE
  _known "$1" "$2" || return 1
  inside "$1" sh -c 'touch /run/services/$0.stopped; kill -9 "$(cat /run/services/$0.pid)" 2>/dev/null || :' "$2"
}
start() { _known "$1" "$2" && inside "$1" rm -f "/run/services/$2.stopped"; }
_known() {
  inside "$1" test -e "/run/services/$2.pid" ||
    { say "$1 has no service $2, but: $(inside "$1" ls /run/services | sed -n 's/\.pid$//p' | tr '\n' ' ')"; return 1; }
}

# Cgroups of one machine of this cluster ('*': of all), in every hierarchy, wherever its starter was.
cgroups_of() { find /sys/fs/cgroup -type d -name "$PREFIX.$1" -prune 2>/dev/null || :; }
named_machines() { cgroups_of '*' | sed 's#.*/##' | cut -c$((${#PREFIX} + 2))- | sort -u; }

# Kills whatever is in a machine and removes its cgroups. Its process 1 takes every mount, network namespace, BPF
# attachment and pin with it.
kill_machine() { # NAME
  local dirs d p end=$((SECONDS + 20))
  dirs=$(cgroups_of "$1")
  for d in $dirs; do [ ! -e "$d/cgroup.kill" ] || echo 1 >"$d/cgroup.kill"; done
  for d in $dirs; do   # where the kernel is older than 5.14, or has no version 2
    for p in $(find "$d" -name cgroup.procs -exec cat {} + 2>/dev/null); do kill -9 "$p" 2>/dev/null || :; done
  done
  for d in $dirs; do
    while [ -d "$d" ]; do
      find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
      [ $SECONDS -lt $end ] || die "left behind: $d holds $(find "$d" -name cgroup.procs -exec cat {} + | tr '\n' ' ')"
    done
  done
}
