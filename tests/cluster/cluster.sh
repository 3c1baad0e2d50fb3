#!/bin/bash
# A real Kubernetes cluster on one Linux machine, from Go modules and distribution packages only: no docker, no
# image registry. `cargo xtask cluster` is the front door; it brings what this needs and then calls this.
#
#   cluster.sh build                        compile everything, unless that is done
#   cluster.sh up [--nodes N] [--proxy nftables|iptables] [--dual]
#   cluster.sh load TAR...                  import image archives into every node
#   cluster.sh kubectl|helm ARGS            run the client inside the control plane's network
#   cluster.sh in cp|nN CMD ARGS            run a command inside one machine (all its namespaces and cgroups)
#   cluster.sh net cp|nN CMD ARGS           the same, in its network namespace only
#   cluster.sh off nN | on nN               pull a node's plug; boot it again
#   cluster.sh stop|start cp|nN SERVICE     crash a service (kube-apiserver, etcd, kubelet, ...) and keep it down; let it start
#   cluster.sh report DIR                   collect logs, pods and events
#   cluster.sh status | kubeconfig | down
#
# A machine (cp, n1, n2, ...) is one process tree in mount, uts, ipc, net, pid and cgroup namespaces of its own.
# Killing its cgroup removes everything in it. Nothing is made in the root network namespace but one listener on
# 127.0.0.1, behind which the API server is; no mount of the root is changed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SELF=$HERE/cluster.sh
TARGET=$(cd "$HERE/../.." && pwd)/target

# Binaries and images, which any number of clusters may share; and one cluster's state.
KC_BUILD=$(realpath -m "${KC_BUILD:-$TARGET/cluster}")
KC_WORK=$(realpath -m "${KC_WORK:-$KC_BUILD}")
export KC_BUILD KC_WORK
PREFIX=kc-$(printf %s "$KC_WORK" | sha256sum | cut -c1-8)   # of its cgroups' names, by which all of it is found
BIN=$KC_BUILD/bin IMAGES=$KC_BUILD/images RUN=$KC_WORK/run PKI=$KC_WORK/pki

KUBE=v1.34.4 HELM=v3.19.5
NET=172.30.0                                    # the data centre's network, /24; cp is .1, nN is .(10+N)
POD=10.244                                      # nN's pods are $POD.N.0/24
SVC=10.96.0.0/16 SVC1=10.96.0.1 DNS=10.96.0.10
NET6=fd00:172:30: POD6=fd00:10:244 SVC6=fd00:10:96::/112   # with --dual: hosts are ${NET6}:N, pods $POD6:N::/64
MAX_NODES=8

export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
say() { printf '  %s\n' "$*" >&2; }
die() { printf '✘ %s\n' "$*" >&2; exit 1; }
dual() { [ "$(cat "$RUN/dual" 2>/dev/null)" = 1 ]; }
await() { # SECONDS CMD...
  local end=$((SECONDS + $1)); shift
  while ! "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { say "waited in vain for: $*"; return 1; }
    sleep 0.05
  done
}

for part in build machine control-plane node pki; do
  # shellcheck source=/dev/null
  . "$HERE/lib/$part.sh"
done

# Inside a machine's network namespace both clients reach the API server without any forwarder.
kc() { innet cp "$BIN/kubectl" --kubeconfig="$PKI/admin.conf" "$@"; }
helm() {
  innet cp env KUBECONFIG="$PKI/admin.conf" HELM_CACHE_HOME="$KC_WORK/helm" HELM_CONFIG_HOME="$KC_WORK/helm" \
    HELM_DATA_HOME="$KC_WORK/helm" "$BIN/helm" "$@"
}

# One change at a time; machines do not inherit descriptor 9.
lock() {
  mkdir -p "$KC_WORK"; exec 9>"$KC_WORK/lock"
  flock -n 9 || { say "another command changes this cluster: waiting for it"; flock -w 900 9 || die "it did not end"; }
}

up() {
  local nodes=1 mode=nftables dual=0 t0=$SECONDS i
  while [ $# -gt 0 ]; do
    case $1 in
      --nodes) nodes=${2:-}; shift $(($# > 1 ? 2 : 1)) ;;
      --proxy) mode=${2:-}; shift $(($# > 1 ? 2 : 1)) ;;
      --dual) dual=1; shift ;;
      *) die "up: unknown option $1" ;;
    esac
  done
  [[ $nodes =~ ^[0-9]+$ ]] && [ "$nodes" -ge 1 ] && [ "$nodes" -le $MAX_NODES ] || die "up --nodes $nodes: 1 to $MAX_NODES"
  [ "$mode" = nftables ] || [ "$mode" = iptables ] || die "up --proxy $mode: nftables or iptables"
  local wanted="nodes=$nodes proxy=$mode dual=$dual"
  lock
  if healthy; then
    [ "$(cat "$RUN/layout")" = "$wanted" ] || die "a cluster with $(cat "$RUN/layout") is up: \`down\` first for $wanted"
    say "already up: $wanted"; return
  fi
  [ -e "$BIN/kube" ] && [ -e "$IMAGES/pause.tar" ] || die "not built yet: \`cargo xtask cluster up\` does that first"
  remove    # what a killed run may have left
  trap 'trap - INT TERM; say "interrupted: removing what was started"; remove; exit 130' INT TERM
  mkdir -p "$RUN"; echo "$wanted" >"$RUN/layout"; echo "$mode" >"$RUN/proxy-mode"; echo "$nodes" >"$RUN/nodes"; echo $dual >"$RUN/dual"
  pki "$nodes"; say "certificates made ($((SECONDS - t0)) s)"
  machine cp
  await 10 innet cp ip addr show dc0
  for i in $(seq "$nodes"); do
    innet cp ip route add "$POD.$i.0/24" via "$NET.$((10 + i))"
    ! dual || innet cp ip route add "$POD6:$i::/64" via "${NET6}:$((10 + i))"
    machine "n$i"; wire "$i" "$nodes"
  done
  say "machines started ($((SECONDS - t0)) s)"
  await 120 kc get --raw /readyz || die "the API server does not get ready: see $RUN/cp/var/log"
  say "API server ready ($((SECONDS - t0)) s)"
  expose
  furnish "$nodes" || die "the nodes do not get ready: see $RUN/n*/var/log"
  touch "$RUN/complete"; trap - INT TERM
  say "nodes and DNS ready ($((SECONDS - t0)) s)"
}

# What kubeadm and a cloud provider would do after the API server is there: DNS and the nodes' pod ranges.
furnish() { # N nodes
  local i v6
  sed -e "s/@DNS@/$DNS/" "$HERE/coredns.yaml" | kc apply -f - >/dev/null
  for i in $(seq "$1"); do
    await 90 kc get node "n$i"
    v6=; ! dual || v6=",\"$POD6:$i::/64\""
    kc patch node "n$i" -p "{\"spec\":{\"podCIDR\":\"$POD.$i.0/24\",\"podCIDRs\":[\"$POD.$i.0/24\"$v6]}}" >/dev/null
  done
  kc wait --for=condition=Ready node --all --timeout=120s >/dev/null
  kc -n kube-system rollout status deployment/coredns --timeout=120s >/dev/null
}

# The root's processes reach the API server on 127.0.0.1: one process here listens, hands on through a Unix socket
# (which no network namespace hides), and one in cp takes that to port 6443.
expose() {
  local port
  for port in $(seq 16443 16543); do [ -n "$(ss -Hltn "sport = :$port")" ] || break; done
  ( enter_cgroups api; cd "$RUN"
    exec setsid socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" UNIX-CONNECT:api.sock
  ) >"$RUN/api.log" 2>&1 </dev/null 9>&- &
  disown $!
  sed "s#https://$NET.1:6443#https://127.0.0.1:$port#" "$PKI/admin.conf" >"$KC_WORK/kubeconfig"
  chmod 600 "$KC_WORK/kubeconfig"
}

healthy() {
  local i
  [ -e "$RUN/complete" ] && alive cp && alive api || return 1
  for i in $(seq "$(cat "$RUN/nodes")"); do alive "n$i" || [ -e "$RUN/n$i.off" ] || return 1; done
  kc get --raw /readyz --request-timeout=10s >/dev/null 2>&1
}

load() { # TAR...: into every node that is on
  local m t n=0
  [ $# -gt 0 ] || die "usage: cluster.sh load TAR..."
  for t in "$@"; do [ -r "$t" ] || die "no image archive $t"; done
  for m in $(machines); do
    [ "$m" != cp ] || continue
    for t in "$@"; do inside "$m" ctr -n k8s.io images import - <"$t" >/dev/null || die "$m does not take $t"; done
    n=$((n + 1))
  done
  [ $n -gt 0 ] || die "no node is on: is the cluster up?"
  say "loaded into $n nodes"
}

# Power a node off (as a pulled plug would), and on again: /run and all mounts are gone, /etc, /opt and the state
# directories stay, as after a real reboot.
off() { touch "$RUN/$1.off"; kill_machine "$1"; rm -f "$RUN/$1/ready" "$RUN/$1.init"; }
on() {
  ! alive "$1" || die "$1 is on"
  [ -d "$RUN/$1" ] || die "no machine $1"
  machine "$1"; wire "${1#n}" "$(cat "$RUN/nodes")"
  rm -f "$RUN/$1.off"
}

machines() { ls "$RUN" 2>/dev/null | sed -n 's/\.init$//p' | grep -v '^api$'; }

# Everything that carries this cluster's name, whether or not its state directory still tells of it.
remove() {
  local m
  for m in $(named_machines); do kill_machine "$m"; done
  rm -rf --one-file-system "$RUN" "$PKI" "$KC_WORK/helm" "$KC_WORK/kubeconfig"
}

status() {
  local m
  [ -e "$RUN/layout" ] || { echo "down"; return 3; }
  echo "layout: $(cat "$RUN/layout")"
  for m in cp $(seq -f 'n%g' "$(cat "$RUN/nodes")"); do
    if alive "$m"; then echo "$m: on (init is process $(initpid "$m"))"; else echo "$m: off"; fi
  done
  healthy || { echo "the cluster is not whole"; return 3; }
  echo "kubeconfig: $KC_WORK/kubeconfig"
  kc get nodes -o wide
}

# Whatever a failed suite may be explained by, as far as it can be had.
report() { # DIR
  local m d=$1
  mkdir -p "$d"
  for m in "$RUN"/*/var/log; do cp -rL "$m" "$d/$(basename "$(dirname "$(dirname "$m")")")" 2>/dev/null || :; done
  { kc get nodes,pods,services -A -o wide; kc get events -A --sort-by=.lastTimestamp; } >"$d/objects.txt" 2>&1 || :
  say "logs, pods and events are in $d"
}

case ${1:-} in
  build) lock; build ;;
  up) shift; up "$@" ;;
  down) lock; remove; say "down: nothing of $PREFIX is left" ;;
  load) shift; load "$@" ;;
  kubectl) shift; kc "$@" ;;
  helm) shift; helm "$@" ;;
  in) shift; inside "$@" ;;
  net) shift; innet "$@" ;;
  off | on) [ $# = 2 ] && [[ $2 = n* ]] || die "usage: cluster.sh $1 nN"; lock; "$1" "$2" ;;
  stop | start) [ $# = 3 ] || die "usage: cluster.sh $1 cp|nN SERVICE"; "$@" ;;
  report) [ $# = 2 ] || die "usage: cluster.sh report DIR"; report "$2" ;;
  status) status ;;
  kubeconfig) healthy || die "no cluster is up"; echo "$KC_WORK/kubeconfig" ;;
  _init) shift; _init "$@" ;;
  *) sed -n '2,17p' "$SELF"; exit 2 ;;
esac
