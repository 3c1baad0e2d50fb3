{{/* What a gateway watches. It sees no Pod: of those behind it the endpoints and the WorkloadTemplates tell. */}}
{{- define "heddle.gatewayRules" -}}
- apiGroups: [""]
  resources: [namespaces, nodes, services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [mesh.heddle.io]
  resources: [workloadtemplates]
  verbs: [list, watch]
- apiGroups: [networking.istio.io]
  resources: [destinationrules, gateways, serviceentries, sidecars, virtualservices, workloadentries]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies, gatewayclasses, gateways, grpcroutes, httproutes, listenersets, referencegrants, tcproutes, tlsroutes]
  verbs: [list, watch]
- apiGroups: [gateway.networking.x-k8s.io]
  resources: [xbackendtrafficpolicies]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [list, watch]
- apiGroups: [security.istio.io]
  resources: [peerauthentications]
  verbs: [list, watch]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [list, watch]
{{- end -}}

{{/* A gateway's pod. root; values: of the gateway; name: its account and Deployment, ports: of its container, both empty where
the controller makes it. */}}
{{- define "heddle.gatewayPodSpec" -}}
{{- with .name -}}
serviceAccountName: {{ . }}
{{- end }}
# The Service's endpoint goes first, then connections drain.
terminationGracePeriodSeconds: {{ add .values.drainDelaySeconds .values.drainSeconds 10 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  {{- $spread := dict }}
  {{- if .name }}
  {{- $spread = dict "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict
        "weight" 100
        "podAffinityTerm" (dict
          "labelSelector" (dict "matchLabels" (dict "app" .name))
          "topologyKey" "kubernetes.io/hostname")))) }}
  {{- end }}
  {{- toYaml (mergeOverwrite $spread (deepCopy .values.affinity)) | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
  # So that servers may listen on any port without a capability.
  sysctls:
    - name: net.ipv4.ip_unprivileged_port_start
      value: "0"
containers:
  # The guides' commands name this container.
  - name: istio-proxy
    image: {{ include "heddle.image" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args:
      - gateway
      - --status-addr=[::]:15021
      - --metrics-addr=[::]:15020
      - --admin-socket=/run/heddle/admin.sock
      - --ca-address={{ include "heddle.caAddress" .root }}
      - --ca-token=/var/run/secrets/tokens/istio-token
      {{- if .root.Values.ca.rootConfigMap }}
      - --ca-root=/var/run/secrets/istio/root-cert.pem
      {{- end }}
      - --cert-ttl={{ .root.Values.ca.certTtlSeconds | int64 }}
      - --mesh-namespace={{ .root.Release.Namespace }}
      - --trust-domain={{ .root.Values.meshConfig.trustDomain }}
      - --cluster-domain={{ .root.Values.clusterDomain }}
      {{- with .name }}
      - --workload={{ . }}
      {{- end }}
      - --labels-file=/etc/podinfo/labels
      - --num-trusted-proxies={{ .values.numTrustedProxies }}
      - --drain-delay-seconds={{ .values.drainDelaySeconds }}
      - --drain-seconds={{ .values.drainSeconds }}
      - --access-log={{ not (empty .root.Values.meshConfig.accessLogFile) }}
      - --log-format={{ .root.Values.logging.format }}
      {{- range .values.extraArgs }}
      - {{ . | quote }}
      {{- end }}
    env:
      - name: POD_NAME
        valueFrom:
          fieldRef:
            fieldPath: metadata.name
      - name: POD_NAMESPACE
        valueFrom:
          fieldRef:
            fieldPath: metadata.namespace
      - name: POD_IPS
        valueFrom:
          fieldRef:
            fieldPath: status.podIPs
      - name: SERVICE_ACCOUNT
        valueFrom:
          fieldRef:
            fieldPath: spec.serviceAccountName
      - name: HEDDLE_LOG
        value: {{ .root.Values.logging.level | quote }}
    terminationMessagePolicy: FallbackToLogsOnError
    ports:
      {{- range .ports }}
      {{- if ne .name "status-port" }}
      - name: {{ .name }}
        containerPort: {{ .targetPort }}
      {{- end }}
      {{- end }}
      - name: status-port
        containerPort: 15021
      - name: http-metrics
        containerPort: 15020
    startupProbe:
      httpGet:
        path: /healthz/live
        port: status-port
      periodSeconds: 1
      failureThreshold: 60
    livenessProbe:
      httpGet:
        path: /healthz/live
        port: status-port
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet:
        path: /healthz/ready
        port: status-port
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 2
    {{- with .values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    volumeMounts:
      - name: podinfo
        mountPath: /etc/podinfo
      - name: run
        mountPath: /run/heddle
      - name: istio-token
        mountPath: /var/run/secrets/tokens
        readOnly: true
      {{- if .root.Values.ca.rootConfigMap }}
      - name: ca-root
        mountPath: /var/run/secrets/istio
        readOnly: true
      {{- end }}
volumes:
  # The socket of `heddle status`, `why` and `routes`.
  - name: run
    emptyDir:
      medium: Memory
      sizeLimit: 1Mi
  - name: podinfo
    downwardAPI:
      items:
        - path: labels
          fieldRef:
            fieldPath: metadata.labels
  - name: istio-token
    projected:
      sources:
        - serviceAccountToken:
            path: istio-token
            audience: istio-ca
            expirationSeconds: 43200
  {{- with .root.Values.ca.rootConfigMap }}
  - name: ca-root
    configMap:
      name: {{ . }}
  {{- end }}
{{- end -}}

{{/* What the controller deploys for a Gateway of Gateway API, but for what only the Gateway says. */}}
{{- define "heddle.gatewayTemplate" -}}
{{- $values := .Values.controller.gatewayApi -}}
podTemplate:
  metadata:
    labels:
      # It is in the mesh by its own certificate; captured, its connections would be proxied twice.
      {{- include "heddle.notMeshed" . | nindent 6 }}
      {{- include "heddle.gatewayPodLabels" . | nindent 6 }}
      {{- with $values.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    annotations:
      kubectl.kubernetes.io/default-container: istio-proxy
      {{- if .Values.monitoring.scrapeAnnotations }}
      {{- include "heddle.scrape" (dict "port" "15020") | nindent 6 }}
      {{- end }}
      {{- with $values.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    {{- include "heddle.gatewayPodSpec" (dict "root" . "values" $values "name" "" "ports" list) | nindent 4 }}
service:
  type: {{ $values.type }}
  ipFamilyPolicy: PreferDualStack
  {{- if and (ne $values.type "ClusterIP") $values.externalTrafficPolicy }}
  externalTrafficPolicy: {{ $values.externalTrafficPolicy }}
  {{- end }}
{{- end -}}
