# The machine `cp`: a bridge that all nodes hang on, etcd, and the control plane's three programs.

_cp() {
  local svc=$SVC
  sysctl -qw net.ipv4.ip_forward=0
  ip link add dc0 type bridge; ip addr add $NET.1/24 dev dc0; ip link set dc0 up
  if dual; then svc=$SVC,$SVC6; ip addr add ${NET6}:1/64 dev dc0 nodad; fi
  svc api-socket socat "UNIX-LISTEN:$RUN/api.sock,fork,unlink-early,mode=600" TCP:127.0.0.1:6443
  # Nothing here has to survive a power cut: data in memory, no fsync.
  svc etcd "$BIN/etcd" --data-dir /run/etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --log-level warn
  # Aggregator routing: cp has no kube-proxy, so webhooks are called at endpoint addresses, which it has routes to.
  svc kube-apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
    --advertise-address=$NET.1 --secure-port=6443 --service-cluster-ip-range="$svc" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --kubelet-client-certificate="$PKI/admin.crt" --kubelet-client-key="$PKI/admin.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
    --requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy \
    --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
    --requestheader-username-headers=X-Remote-User \
    --proxy-client-cert-file="$PKI/front-proxy.crt" --proxy-client-key-file="$PKI/front-proxy.key" \
    --enable-aggregator-routing=true --profiling=false --v=1
  svc kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig="$PKI/kcm.conf" \
    --authentication-kubeconfig="$PKI/kcm.conf" --authorization-kubeconfig="$PKI/kcm.conf" \
    --leader-elect=false --use-service-account-credentials --root-ca-file="$PKI/ca.crt" \
    --service-account-private-key-file="$PKI/sa.key" --cluster-signing-cert-file="$PKI/ca.crt" \
    --cluster-signing-key-file="$PKI/ca.key" --bind-address=127.0.0.1 --profiling=false
  svc kube-scheduler "$BIN/kube-scheduler" --kubeconfig="$PKI/scheduler.conf" \
    --authentication-kubeconfig="$PKI/scheduler.conf" --authorization-kubeconfig="$PKI/scheduler.conf" \
    --leader-elect=false --bind-address=127.0.0.1 --profiling=false
}

wire() { # I N: connects node I of N to the data centre's network
  local i=$1 p
  # After a power cut the kernel takes the old node's end away some time after its processes.
  innet cp ip link del "n$i" 2>/dev/null || :
  innet cp ip link add "n$i" type veth peer name eth0 netns "$(initpid "n$i")"
  innet cp ip link set "n$i" master dc0 up
  innet "n$i" ip addr add "$NET.$((10 + i))/24" dev eth0
  innet "n$i" ip link set eth0 up
  # kube-proxy's addresses need some route; cp forwards nothing.
  innet "n$i" ip route add default via $NET.1
  if dual; then
    innet "n$i" ip addr add "${NET6}:$((10 + i))/64" dev eth0 nodad
    innet "n$i" ip route add default via ${NET6}:1
  fi
  for p in $(seq "$2"); do
    [ "$i" != "$p" ] || continue
    innet "n$i" ip route add "$POD.$p.0/24" via "$NET.$((10 + p))"
    ! dual || innet "n$i" ip route add "$POD6:$p::/64" via "${NET6}:$((10 + p))"
  done
}
