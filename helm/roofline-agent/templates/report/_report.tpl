{{/*
The monthly review. Its defaults stand here too, since `helm upgrade --reuse-values` brings values without a section
`report`; a test holds them to values.yaml.
*/}}

{{- define "roofline-agent.report" -}}
{{- $defaults := dict
  "schedule" "0 6 1 * *"
  "timeZone" "Etc/UTC"
  "groupBy" "model"
  "resources" (dict "requests" (dict "cpu" "100m" "memory" "128Mi") "limits" (dict "memory" "1Gi"))
  "backoffLimit" 6
  "activeDeadlineSeconds" 21600
  "successfulJobsHistoryLimit" 3
  "failedJobsHistoryLimit" 3 }}
{{- $report := deepCopy (.Values.report | default dict) }}
{{- range $key, $value := $defaults }}
{{- if not (hasKey $report $key) }}{{ $_ := set $report $key $value }}{{ end }}
{{- end }}
{{- toYaml $report }}
{{- end }}

{{- define "roofline-agent.reports" -}}
{{- if (.Values.report).enabled }}true{{ end }}
{{- end }}

{{/* A CronJob's name has 52 characters at most. */}}
{{- define "roofline-agent.reportName" -}}
{{- printf "%s-report" (include "roofline-agent.fullname" . | trunc 45 | trimSuffix "-") }}
{{- end }}

{{/* Of another component than the agents, so that nothing of theirs selects it. */}}
{{- define "roofline-agent.reportSelector" -}}
app.kubernetes.io/name: {{ include "roofline-agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: report
{{- end }}

{{- define "roofline-agent.reportLabels" -}}
{{- toYaml (mergeOverwrite (include "roofline-agent.labels" . | fromYaml) (dict "app.kubernetes.io/component" "report")) }}
{{- end }}

{{- define "roofline-agent.reportServiceAccountName" -}}
{{- if (.Values.report).serviceAccountName }}
{{- .Values.report.serviceAccountName }}
{{- else if dig "create" true (.Values.serviceAccount | default dict) }}
{{- include "roofline-agent.reportName" . }}
{{- else }}default
{{- end }}
{{- end }}

{{- define "roofline-agent.reportImage" -}}
{{- $own := (.Values.report).image | default dict }}
{{- $registry := coalesce (.Values.global).imageRegistry $own.registry (.Values.image).registry }}
{{- $name := coalesce $own.repository (.Values.image).repository "roofline-agent/roofline-agent" }}
{{- if $registry }}{{ $name = printf "%s/%s" $registry $name }}{{ end }}
{{- if $own.digest }}
{{- printf "%s@%s" $name $own.digest }}
{{- else }}
{{- printf "%s:%s" $name (default (printf "%s-report" (default .Chart.AppVersion (.Values.image).tag)) $own.tag) }}
{{- end }}
{{- end }}

{{- define "roofline-agent.prometheusUrl" -}}
{{- $url := (.Values.report).prometheusUrl }}
{{- if not $url }}{{ fail "report.enabled needs report.prometheusUrl: the Prometheus, Thanos, Mimir or VictoriaMetrics that keeps what the recording rules record, such as http://prometheus.monitoring.svc:9090" }}{{ end }}
{{- if (urlParse $url).userinfo }}{{ fail "report.prometheusUrl must hold no credentials: name their Secret in report.auth" }}{{ end }}
{{- $url }}
{{- end }}

{{/* The name of the claim; "" where nothing keeps the reviews. */}}
{{- define "roofline-agent.reportClaim" -}}
{{- $persistence := (.Values.report).persistence | default dict }}
{{- if $persistence.existingClaim }}{{ $persistence.existingClaim }}
{{- else if $persistence.enabled }}{{ include "roofline-agent.reportName" . }}
{{- end }}
{{- end }}

{{- define "roofline-agent.reportPodSecurityContext" -}}
{{- $own := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- toYaml (mergeOverwrite $own (deepCopy ((.Values.report).podSecurityContext | default dict))) }}
{{- end }}

{{- define "roofline-agent.reportSecurityContext" -}}
{{- $own := dict "allowPrivilegeEscalation" false "privileged" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) }}
{{- toYaml (mergeOverwrite $own (deepCopy ((.Values.report).securityContext | default dict))) }}
{{- end }}

{{/* A value as an argument: Kubernetes would put a variable's value for $(NAME). */}}
{{- define "roofline-agent.argument" -}}
{{- printf "%s=%s" (first .) (last . | toString | replace "$(" "$$(") | quote }}
{{- end }}

{{/* Files of Secrets and ConfigMaps: what mounts each, and the options that name them. */}}
{{- define "roofline-agent.reportFiles" -}}
{{- $auth := (.Values.report).auth | default dict }}
{{- $files := list }}
{{- with $auth.bearerTokenSecret }}
{{- if .name }}
{{- $files = append $files (dict "volume" "bearer-token" "secret" .name "options" (list (dict "option" "--bearer-token-file" "key" (.key | default "token")))) }}
{{- end }}
{{- end }}
{{- with $auth.basicAuthSecret }}
{{- if .name }}
{{- if $files }}{{ fail "report.auth: a token or a name with a password, not both" }}{{ end }}
{{- $files = append $files (dict "volume" "basic-auth" "secret" .name "options" (list (dict "option" "--password-file" "key" (.passwordKey | default "password")))) }}
{{- end }}
{{- end }}
{{- with $auth.caSecret }}
{{- if .name }}
{{- $files = append $files (dict "volume" "ca" "secret" .name "options" (list (dict "option" "--ca-file" "key" (.key | default "ca.crt")))) }}
{{- end }}
{{- end }}
{{- with $auth.caConfigMap }}
{{- if .name }}
{{- if ($auth.caSecret).name }}{{ fail "report.auth: the authority from caSecret or from caConfigMap, not both" }}{{ end }}
{{- $files = append $files (dict "volume" "ca" "configMap" .name "options" (list (dict "option" "--ca-file" "key" (.key | default "ca.crt")))) }}
{{- end }}
{{- end }}
{{- with $auth.clientSecret }}
{{- if .name }}
{{- $files = append $files (dict "volume" "client" "secret" .name "options" (list (dict "option" "--cert-file" "key" (.certKey | default "tls.crt")) (dict "option" "--key-file" "key" (.keyKey | default "tls.key")))) }}
{{- end }}
{{- end }}
{{- range $index, $model := ((.Values.report).models | default list) }}
{{- $files = append $files (dict "volume" (printf "model-%d" $index) "configMap" $model.configMap "model" $model.name "options" (list (dict "key" ($model.key | default "config.json")))) }}
{{- end }}
{{- toYaml (dict "files" $files) }}
{{- end }}

{{/* A pod that does nothing for an hour, from which the reviews can be copied. */}}
{{- define "roofline-agent.reportReader" -}}
{{- $name := printf "%s-reader" (include "roofline-agent.reportName" .) }}
{{- $container := dict "name" $name "image" (include "roofline-agent.reportImage" .) "command" (list "sleep" "3600")
  "securityContext" (include "roofline-agent.reportSecurityContext" . | fromYaml)
  "volumeMounts" (list (dict "name" "reviews" "mountPath" "/reviews" "readOnly" true)) }}
{{- $volume := dict "name" "reviews" "persistentVolumeClaim" (dict "claimName" (include "roofline-agent.reportClaim" .)) }}
{{- $spec := dict "automountServiceAccountToken" false "securityContext" (include "roofline-agent.reportPodSecurityContext" . | fromYaml)
  "containers" (list $container) "volumes" (list $volume) }}
{{- with include "roofline-agent.pullSecrets" . }}{{ $_ := set $spec "imagePullSecrets" (. | fromYamlArray) }}{{ end }}
{{- dict "spec" $spec | toJson }}
{{- end }}
