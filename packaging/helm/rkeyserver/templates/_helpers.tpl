{{/* With a machine's name, a StatefulSet's may have 52 characters. */}}
{{- define "rkeyserver.name" -}}
{{ printf "%s-rkeyserver" .Release.Name | trunc 27 | trimSuffix "-" }}
{{- end }}

{{- define "rkeyserver.selector" -}}
app.kubernetes.io/name: rkeyserver
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rkeyserver.labels" -}}
{{ include "rkeyserver.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "rkeyserver.image" -}}
{{ .repository }}{{ with .tag }}:{{ . }}{{ end }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{/* What a schema cannot say: names are different, nodes are, and who asks nobody is one of them. */}}
{{- define "rkeyserver.check" -}}
{{- if and .Values.firstStart .Release.IsUpgrade }}
{{- fail "firstStart is for the installation alone: set domain to the id that `rkeyserver status` shows, and firstStart to false." }}
{{- end }}
{{- $names := list }}
{{- $nodes := list }}
{{- range .Values.machines }}
{{- if has .name $names }}
{{- fail (printf "machines: two are named %s; wanted is a name for each." .name) }}
{{- end }}
{{- if has .node $nodes }}
{{- fail (printf "machines: two are on the node %s; wanted is one instance for each machine." .node) }}
{{- end }}
{{- $names = append $names .name }}
{{- $nodes = append $nodes .node }}
{{- end }}
{{- if and .Values.primary (not (has .Values.primary $names)) }}
{{- fail (printf "primary: %s is none of machines: %s." .Values.primary (join ", " $names)) }}
{{- end }}
{{- if not (or .Values.firstStart .Values.primary .Values.hosts (gt (len $names) 1)) }}
{{- fail "One machine, which is to ask, and no hosts: it has nobody to ask for the key. Set primary or hosts." }}
{{- end }}
{{- end }}
