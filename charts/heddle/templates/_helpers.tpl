{{- define "heddle.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "heddle.labels" -}}
app.kubernetes.io/part-of: heddle
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels of pods: nothing that changes with the chart alone, which would restart them. */}}
{{- define "heddle.podLabels" -}}
app.kubernetes.io/part-of: heddle
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* By these `heddle` finds gateways. */}}
{{- define "heddle.gatewayPodLabels" -}}
{{ include "heddle.podLabels" . }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* Labels that keep Heddle's own pods out of any mesh. */}}
{{- define "heddle.notMeshed" -}}
heddle.io/mesh: disabled
istio.io/dataplane-mode: none
sidecar.istio.io/inject: "false"
{{- end -}}

{{- define "heddle.scrape" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end -}}

{{- define "heddle.agentPort" -}}
{{ regexFind "[0-9]+$" .Values.agent.metricsAddr }}
{{- end -}}

{{- define "heddle.caAddress" -}}
{{ .Values.ca.address | default (printf "heddle-controller.%s.svc:15012" .Release.Namespace) }}
{{- end -}}
