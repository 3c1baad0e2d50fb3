# Compiling what no distribution has at the version wanted, and the images of the cluster's own pods.

build() {
  local stamp t0=$SECONDS
  stamp=$(_sources | sha256sum | cut -c1-16)
  if [ "$(cat "$KC_BUILD/built" 2>/dev/null)" = "$stamp" ]; then say "Kubernetes $KUBE is built"; return; fi
  command -v go >/dev/null || die "no go on the PATH or in /usr/local/go/bin: install Go 1.26 or newer (https://go.dev/dl)"
  mkdir -p "$BIN" "$IMAGES"; rm -f "$KC_BUILD/built"
  ( cd "$HERE/kube"; _programs )
  _images
  echo "$stamp" >"$KC_BUILD/built"
  say "Kubernetes $KUBE is built ($((SECONDS - t0)) s)"
}

# All that the result depends on, and nothing else: a changed stamp costs minutes.
_sources() {
  echo "$KUBE $HELM $(uname -m)"
  find "$HERE/kube" "$HERE/mkimage.py" "$HERE/lib/build.sh" -type f | sort | xargs cat
}

_programs() {
  local k ld="-s -w" m=${KUBE#v} c
  export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
  # helm and clients compare the server's minor version.
  for k in "gitVersion=$KUBE" "gitMajor=${m%%.*}" "gitMinor=$(cut -d. -f2 <<<"$m")" gitTreeState=clean \
           gitCommit=0000000000000000000000000000000000000000 buildDate=2026-01-01T00:00:00Z; do
    ld="$ld -X k8s.io/component-base/version.$k -X k8s.io/client-go/pkg/version.$k"
  done
  say "downloading Go modules"
  go mod download
  say "compiling Kubernetes $KUBE (minutes, once)"
  _go kube -ldflags "$ld" -o "$BIN/kube" .
  _go "helm $HELM" -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$HELM" -o "$BIN/helm" helm.sh/helm/v3/cmd/helm
  _go etcd -ldflags "-s -w" -o "$BIN/etcd" go.etcd.io/etcd/server/v3
  _go "coredns, echo, pause, probe" -ldflags "-s -w" -o "$BIN/" ./coredns ./echo ./pause ./probe
  for c in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do ln -sf kube "$BIN/$c"; done
}

_go() { # WHAT ARGS of go build...
  local what=$1 t0=$SECONDS; shift
  nice go build "$@" || die "$what does not build"
  say "built $what ($((SECONDS - t0)) s)"
}

_images() {
  local d=k8s.test a links=()
  for a in sh ls cat sleep wget nslookup nsenter ps mount grep id env head tail sed awk readlink nc ping hostname mkdir \
           rm stat find wc tr cut date dd test true false kill touch; do links+=(--link "busybox:/bin/$a"); done
  _image pause.tar   $d/pause:1   --entry /pause --file "$BIN/pause:/pause:755"
  _image coredns.tar $d/coredns:1 --entry /coredns --file "$BIN/coredns:/coredns:755"
  _image echo.tar    $d/echo:1    --entry /echo --cmd serve --file "$BIN/echo:/echo:755"
  # A shell, curl, and the tools with which a test looks around a node.
  _image client.tar  $d/client:1  --cmd /bin/sleep --cmd infinity --dir /tmp:1777 --dir /root \
    --file /bin/busybox:/bin/busybox:755 --exe "$(command -v curl):/usr/bin/curl" \
    --exe "$(command -v bpftool):/usr/sbin/bpftool" --exe "$(command -v ip):/usr/sbin/ip" \
    --file "$BIN/echo:/usr/bin/echo-client:755" --file "$BIN/probe:/usr/bin/probe:755" "${links[@]}"
  say "made the images"
}
_image() { local out=$1; shift; python3 "$HERE/mkimage.py" "$IMAGES/$out" "$@" || die "$out cannot be made"; }
