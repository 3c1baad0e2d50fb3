# Compiling what no distribution has at the version wanted. (The images are made by `cargo xtask cluster up`.)

build() {
  local stamp t0=$SECONDS
  stamp=$(_sources | sha256sum | cut -c1-16)
  if [ "$(cat "$KC_BUILD/built" 2>/dev/null)" = "$stamp" ]; then say "Kubernetes $KUBE is built"; return; fi
  command -v go >/dev/null || die "no go on the PATH or in /usr/local/go/bin: install Go 1.26 or newer (https://go.dev/dl)"
  mkdir -p "$BIN"; rm -f "$KC_BUILD/built"
  ( cd "$HERE/kube"; _programs )
  echo "$stamp" >"$KC_BUILD/built"
  say "Kubernetes $KUBE is built ($((SECONDS - t0)) s)"
}

# All that the result depends on, and nothing else: a changed stamp costs minutes.
_sources() {
  echo "$KUBE $HELM $(uname -m)"
  find "$HERE/kube" "$HERE/lib/build.sh" -type f | sort | xargs cat
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

_go() { # WHAT ARGS of go build...; with -v it names each package that it compiles
  local what=$1 t0=$SECONDS; shift
  nice go build -v "$@" 2>&1 | awk -v what="${what%% *}" '
    /^[^ :#]+$/ { if (++n % 250 == 0) { printf "  %s: %d packages\n", what, n; fflush() } next }
    { print "  " $0; fflush() }' >&2 || die "$what does not build"
  say "built $what ($((SECONDS - t0)) s)"
}
