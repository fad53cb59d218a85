{{- define "verdictd-py.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "verdictd-py.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if or (contains (include "verdictd-py.name" .) .Release.Name) (hasPrefix .Release.Name (include "verdictd-py.name" .)) -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "verdictd-py.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "verdictd-py.selector" -}}
app.kubernetes.io/name: {{ include "verdictd-py.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "verdictd-py.labels" -}}
{{ include "verdictd-py.selector" . }}
app.kubernetes.io/component: broker
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "verdictd-py.image" -}}
{{- if .Values.image.unsafeTag -}}
{{ .Values.image.repository }}:{{ .Values.image.unsafeTag }}
{{- else -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- end -}}
{{- end -}}

{{/* Secret of the certificate for HTTPS. */}}
{{- define "verdictd-py.tlsSecret" -}}
{{- default (printf "%s-tls" (include "verdictd-py.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "verdictd-py.airGapped" -}}
{{- if or .Values.collateral.existingSecret .Values.collateral.existingClaim -}}true{{- end -}}
{{- end -}}

{{/* Settings of the TOML file, as JSON: those of the values, and those of the chart. */}}
{{- define "verdictd-py.settings" -}}
{{- $set := dict
  "listen" (printf "0.0.0.0:%d" (int .Values.guests.port))
  "status" (printf "0.0.0.0:%d" (int .Values.statusPort))
  "data_dir" "/opt/verdictd/data"
  "reload_on_change" true -}}
{{- if .Values.http.enabled -}}
{{- $_ := set $set "kbs_http" (printf "0.0.0.0:%d" (int .Values.http.port)) -}}
{{- $_ := set $set "kbs_tls_cert" "/etc/verdictd-py/tls/tls.crt" -}}
{{- $_ := set $set "kbs_tls_key" "/etc/verdictd-py/tls/tls.key" -}}
{{- end -}}
{{- if .Values.administrators.existingSecret -}}
{{- $_ := set $set "kbs_admins" "/etc/verdictd-py/administrators/admins.toml" -}}
{{- end -}}
{{- if .Values.clientApi.enabled -}}
{{- $_ := set $set "client_api" (printf "0.0.0.0:%d" (int .Values.clientApi.port)) -}}
{{- $_ := set $set "client_api_cert" "/etc/verdictd-py/client-api/tls.crt" -}}
{{- $_ := set $set "client_api_key" "/etc/verdictd-py/client-api/tls.key" -}}
{{- $_ := set $set "client_api_ca" "/etc/verdictd-py/client-api/ca.crt" -}}
{{- $_ := set $set "client_api_roles" "/etc/verdictd-py/roles/roles.toml" -}}
{{- end -}}
{{- if include "verdictd-py.airGapped" . -}}
{{- $_ := set $set "collateral" "/etc/verdictd-py/collateral" -}}
{{- end -}}
{{- range .Values.settingsFiles -}}
{{- $_ := set $set .setting (printf "%s/etc/verdictd-py/files/%s/%s" (default "" .prefix) .setting .key) -}}
{{- end -}}
{{- merge $set .Values.config | toJson -}}
{{- end -}}

{{/* The TOML file. Strings of JSON are strings of TOML; helm reads every number as a float. */}}
{{- define "verdictd-py.toml" -}}
{{- $tables := dict -}}
{{- range $name, $value := . }}
{{- if or (kindIs "map" $value) (and (kindIs "slice" $value) $value (kindIs "map" (first $value))) -}}
{{- $_ := set $tables $name $value -}}
{{- else if kindIs "invalid" $value -}}
{{- else if and (kindIs "float64" $value) (eq $value (float64 (int64 $value))) }}
{{ $name }} = {{ int64 $value }}
{{- else }}
{{ $name }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{ if $tables }}{{ $tables | toToml }}{{ end }}
{{- end -}}

{{/* Digest of the settings without those that are reloaded. */}}
{{- define "verdictd-py.configDigest" -}}
{{- $settings := include "verdictd-py.settings" . | fromJson -}}
{{- range .Files.Get "files/live-settings.json" | fromJsonArray -}}
{{- $_ := unset $settings . -}}
{{- end -}}
{{- $settings | toJson | sha256sum -}}
{{- end -}}

{{/* Versions of the Secrets that the broker does not read again. A client of the API knows them. */}}
{{- define "verdictd-py.secretsDigest" -}}
{{- $versions := list -}}
{{- range concat .Values.settingsFromSecrets .Values.settingsFiles -}}
{{- $secret := lookup "v1" "Secret" $.Release.Namespace .secret -}}
{{- if $secret -}}
{{- $versions = append $versions (printf "%s %s" .secret $secret.metadata.resourceVersion) -}}
{{- end -}}
{{- end -}}
{{- $versions | toJson | sha256sum -}}
{{- end -}}

{{- define "verdictd-py.podSecurity" -}}
runAsNonRoot: true
{{- range $name := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- if get $.Values.security $name }}
{{ $name }}: {{ get $.Values.security $name | int64 }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "verdictd-py.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the broker mounts below its data directory: Secrets of keys and resources. */}}
{{- define "verdictd-py.dataMounts" -}}
{{- range $kind := list "keys" "resources" }}
{{- range $number, $entry := get $.Values $kind }}
- name: {{ $kind }}-{{ $number }}
  mountPath: /opt/verdictd/data/{{ $kind }}/{{ $entry.path }}
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{/* Directories that must exist before: the runtime would make them for root. */}}
{{- define "verdictd-py.dataDirectories" -}}
{{- $found := list -}}
{{- if or .Values.keys .Values.resources -}}
{{- $found = append $found "/opt/verdictd/data" -}}
{{- end -}}
{{- range $kind := list "keys" "resources" -}}
{{- range get $.Values $kind -}}
{{- $path := printf "/opt/verdictd/data/%s" $kind -}}
{{- $found = append $found $path -}}
{{- range splitList "/" .path -}}
{{- $path = printf "%s/%s" $path . -}}
{{- $found = append $found $path -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $found | uniq | toJson -}}
{{- end -}}
