{{- define "rtc-server.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "rtc-server.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rtc-server.labels" -}}
{{ include "rtc-server.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "rtc-server.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "rtc-server.keysSecret" -}}
{{- if .Values.keys.existingSecret }}{{ .Values.keys.existingSecret }}{{ else }}{{ include "rtc-server.name" . }}-keys{{ end }}
{{- end }}

{{/* Settings that follow from the chart's other values go before those of the operator, except where they must agree. */}}
{{- define "rtc-server.settings" -}}
{{- $server := dict "host" "0.0.0.0" "tls" false "realtime_port" 0 "http_port" 8000 "drain_timeout_seconds" (.Values.media.drainSeconds | float64) }}
{{- $own := dict
  "server" $server
  "models" (dict "cache_dir" "/var/lib/rtc-server/models" "offline" (ne .Values.models.source "fetch"))
  "webrtc" (dict "udp_port" (int .Values.media.udpPort))
  "logging" (dict "format" "json") }}
{{- mergeOverwrite (deepCopy .Values.settings) $own | toToml }}
{{- end }}

{{/* "1" where the models are fetched at the start; the voice detector's is needed with every backend. */}}
{{- define "rtc-server.fetches" -}}
{{ ternary "1" "0" (eq .Values.models.source "fetch") }}
{{- end }}

{{- define "rtc-server.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "rtc-server.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities: {drop: [ALL]}
{{- end }}

{{/* Volumes that every pod of ours has: settings and keys in one folder, models, and what is written. */}}
{{- define "rtc-server.volumes" -}}
- name: config
  projected:
    defaultMode: 0440
    sources:
      - configMap: {name: {{ include "rtc-server.name" . }}}
      - secret: {name: {{ include "rtc-server.keysSecret" . }}}
{{- if ne .Values.models.source "image" }}
- name: models
{{- if .Values.models.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.models.existingClaim }}, readOnly: {{ eq .Values.models.source "volume" }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.models.sizeLimit }}}
{{- end }}
{{- end }}
- name: recordings
{{- if .Values.recordings.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.recordings.existingClaim }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.recordings.sizeLimit }}}
{{- end }}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- end }}

{{- define "rtc-server.mounts" -}}
- {name: config, mountPath: /etc/rtc-server, readOnly: true}
{{- if ne .Values.models.source "image" }}
- {name: models, mountPath: /var/lib/rtc-server/models, readOnly: {{ eq .Values.models.source "volume" }}}
{{- end }}
- {name: recordings, mountPath: /var/lib/rtc-server/recordings}
- {name: tmp, mountPath: /tmp}
{{- end }}
