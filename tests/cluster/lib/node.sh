# A node: containerd, kubelet and kube-proxy, with a bridge CNI whose range is fixed per node.

_node() { # NAME
  local m=$1 n=${1#n} ip6='' t
  sysctl -qw net.ipv4.ip_forward=1
  if dual; then sysctl -qw net.ipv6.conf.all.forwarding=1; ip6=,${NET6}:$((10 + n)); fi
  cp -a /usr/lib/cni/{bridge,host-local,loopback,portmap} /opt/cni/bin/
  mkdir -p /etc/containerd /etc/kubernetes/manifests
  _containerd_config >/etc/containerd/config.toml
  [ -e /etc/cni/net.d/10-pods.conflist ] || _cni_config "$n" >/etc/cni/net.d/10-pods.conflist
  _kubelet_config "$m" >/etc/kubernetes/kubelet.yaml
  _kube_proxy_config "$m" >/etc/kubernetes/kube-proxy.yaml
  svc containerd containerd -c /etc/containerd/config.toml
  await 30 ctr version
  for t in "$IMAGES"/*.tar; do ctr -n k8s.io images import "$t" >>/var/log/images.log 2>&1; done
  await 60 ip -4 route get $NET.1 oif eth0
  if dual; then await 60 ip -6 route get ${NET6}:1 oif eth0; fi
  svc kubelet "$BIN/kubelet" --config=/etc/kubernetes/kubelet.yaml --kubeconfig="$PKI/$m.conf" \
    --hostname-override="$m" --node-ip="$NET.$((10 + n))$ip6" --node-labels="topology.kubernetes.io/zone=z$n"
  svc kube-proxy "$BIN/kube-proxy" --config=/etc/kubernetes/kube-proxy.yaml
}

_containerd_config() {
  # restrict_oom_score_adj: where nothing may lower it (no CAP_SYS_RESOURCE), runc would fail every sandbox.
  cat <<X
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "k8s.test/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
X
}

_cni_config() { # NUMBER
  local r6='' d6=''
  ! dual || { r6=", [{\"subnet\": \"$POD6:$1::/64\"}]"; d6=', {"dst": "::/0"}'; }
  cat <<X
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD.$1.0/24"}]$r6], "routes": [{"dst": "0.0.0.0/0"}$d6]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
X
}

_kubelet_config() { # NAME
  cat <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/$1.crt
tlsPrivateKeyFile: $PKI/$1.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
protectKernelDefaults: true
staticPodPath: /etc/kubernetes/manifests
resolvConf: /etc/resolv.conf
clusterDomain: cluster.local
clusterDNS: [$DNS]
evictionHard: {memory.available: 100Mi, nodefs.available: 100Mi, nodefs.inodesFree: "1%", imagefs.available: 100Mi}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
X
}

# conntrack's limits cannot be written from a network namespace; zeros leave them alone.
_kube_proxy_config() { # NAME
  local v6=''
  ! dual || v6=,$POD6::/48
  cat <<X
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $(cat "$RUN/proxy-mode")
clusterCIDR: $POD.0.0/16$v6
hostnameOverride: $1
clientConnection: {kubeconfig: $PKI/proxy.conf}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
metricsBindAddress: 127.0.0.1:10249
oomScoreAdj: 0
X
}
