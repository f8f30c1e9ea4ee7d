{{/* Name of every object of the release: `<release>-operator`. */}}
{{- define "adts.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains "operator" .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-operator" (.Release.Name | trunc 40 | trimSuffix "-") }}
{{- end }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "adts.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{ include "adts.identity" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: adts
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels that tell this release from any other. */}}
{{- define "adts.identity" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of the operator's pods, which never change: selectors are immutable. The pod of `helm test` has others. */}}
{{- define "adts.selector" -}}
{{ include "adts.identity" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "adts.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "adts.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | required "serviceAccount.name: is empty although serviceAccount.create is false; write the name of the account" }}
{{- end }}
{{- end }}

{{- define "adts.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "adts.trainerImage" -}}
{{- .Values.trainer.image | default (printf "adts/trainer:%s" .Chart.AppVersion) }}
{{- end }}

{{/* The operator's rights on jobs and what belongs to them. Each verb is used; the tests hold that. */}}
{{- define "adts.rules" -}}
- apiGroups: [adts.dev]
  resources: [distributedtrainings]
  verbs: [get, list, watch, delete]
- apiGroups: [adts.dev]
  resources: [distributedtrainings/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, delete]
# The token of a job is written and never read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- $groups := dict "native" "scheduling.k8s.io" "volcano" "scheduling.volcano.sh" "coscheduling" "scheduling.x-k8s.io" }}
{{- range $switch := list "native" "volcano" "coscheduling" }}
{{- if index $.Values.gang $switch }}
- apiGroups: [{{ index $groups $switch }}]
  resources: [podgroups]
  verbs: [get, create, delete]
{{- end }}
{{- end }}
{{- if .Values.progress.viaApiProxy }}
- apiGroups: [""]
  resources: [pods/proxy]
  verbs: [get]
{{- end }}
{{- end }}
