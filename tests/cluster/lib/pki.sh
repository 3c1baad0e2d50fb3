# Keys, certificates and kubeconfigs of one cluster.

pki() { # N nodes
  local i
  rm -rf "$PKI"; mkdir -p "$PKI"; chmod 700 "$PKI"; cd "$PKI"
  openssl ecparam -name prime256v1 -genkey -noout -out ca.key
  openssl req -x509 -new -key ca.key -subj /CN=kubernetes-ca -days 365 -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
  openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
  _certificate apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$NET.1,IP:$SVC1,DNS:cp,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  _certificate front-proxy /CN=front-proxy
  _client admin /O=system:masters/CN=admin
  _client kcm /CN=system:kube-controller-manager
  _client scheduler /CN=system:kube-scheduler
  _client proxy /CN=system:kube-proxy
  for i in $(seq "$1"); do
    _client "n$i" "/O=system:nodes/CN=system:node:n$i" "IP:$NET.$((10 + i)),DNS:n$i"
  done
  cd "$HERE"
}

_client() { # NAME SUBJECT [SAN]
  _certificate "$@"
  cat >"$1.conf" <<X
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$NET.1:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
X
}

_certificate() { # NAME SUBJECT [SAN]
  openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
  openssl req -new -key "$1.key" -subj "$2" | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 \
    -extfile <(echo "keyUsage=critical,digitalSignature"; echo "extendedKeyUsage=clientAuth,serverAuth"
               [ -z "${3:-}" ] || echo "subjectAltName=$3") -out "$1.crt" 2>/dev/null
}
