{{/*
Names, labels, and what follows from the values. Values are read so that a missing key is no error: after
`helm upgrade --reuse-values` the values are those of an older chart.
*/}}

{{- define "roofline-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "roofline-agent.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "roofline-agent.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "roofline-agent.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "roofline-agent.selector" -}}
app.kubernetes.io/name: {{ include "roofline-agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{/* Without versions: for what would restart pods when they change. */}}
{{- define "roofline-agent.podLabels" -}}
{{- $labels := mergeOverwrite (dict) (.Values.commonLabels | default dict) (.Values.podLabels | default dict) (include "roofline-agent.selector" . | fromYaml) }}
{{- toYaml $labels }}
{{- end }}

{{- define "roofline-agent.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" (include "roofline-agent.name" .)
  "app.kubernetes.io/name" (include "roofline-agent.name" .)
  "app.kubernetes.io/instance" .Release.Name }}
{{- toYaml (mergeOverwrite (dict) (.Values.commonLabels | default dict) $own) }}
{{- end }}

{{- define "roofline-agent.serviceAccountName" -}}
{{- if dig "create" true (.Values.serviceAccount | default dict) }}
{{- default (include "roofline-agent.fullname" .) (.Values.serviceAccount).name }}
{{- else }}
{{- default "default" (.Values.serviceAccount).name }}
{{- end }}
{{- end }}

{{- define "roofline-agent.image" -}}
{{- $registry := default (.Values.image).registry (.Values.global).imageRegistry }}
{{- $name := (.Values.image).repository | default "roofline-agent/roofline-agent" }}
{{- if $registry }}{{ $name = printf "%s/%s" $registry $name }}{{ end }}
{{- if (.Values.image).digest }}
{{- printf "%s@%s" $name (.Values.image).digest }}
{{- else }}
{{- printf "%s:%s" $name (default .Chart.AppVersion (.Values.image).tag) }}
{{- end }}
{{- end }}

{{- define "roofline-agent.pullSecrets" -}}
{{- $secrets := concat ((.Values.global).imagePullSecrets | default list) (.Values.imagePullSecrets | default list) }}
{{- range $secrets }}
- name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
{{- end }}
{{- end }}

{{- define "roofline-agent.port" -}}
{{- (.Values.web).port | default 10095 | int }}
{{- end }}

{{/* --- privileges: true or nothing, from what the configuration switches on --- */}}

{{- define "roofline-agent.watchesPods" -}}
{{- if ((((.Values.config).discovery).kubernetes).enabled) }}true{{ end }}
{{- end }}

{{- define "roofline-agent.readsPodResources" -}}
{{- if ((((.Values.config).discovery).pod_resources).enabled) }}true{{ end }}
{{- end }}

{{- define "roofline-agent.seesProcesses" -}}
{{- if ((((.Values.config).discovery).processes).enabled) }}true{{ end }}
{{- end }}

{{- define "roofline-agent.isRoot" -}}
{{- if or (include "roofline-agent.readsPodResources" .) (include "roofline-agent.seesProcesses" .) (.Values.gpuAccess).migMonitor }}true{{ end }}
{{- end }}

{{- define "roofline-agent.podSecurityContext" -}}
{{- $root := include "roofline-agent.isRoot" . }}
{{- $id := ternary 0 65532 (eq $root "true") }}
{{- $own := dict "runAsNonRoot" (ne $root "true") "runAsUser" $id "runAsGroup" $id "fsGroup" 65532 "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- toYaml (mergeOverwrite $own (deepCopy (.Values.podSecurityContext | default dict))) }}
{{- end }}

{{- define "roofline-agent.capabilities" -}}
{{- $added := list }}
{{- if include "roofline-agent.seesProcesses" . }}{{ $added = append $added "SYS_PTRACE" }}{{ end }}
{{- if (.Values.gpuAccess).migMonitor }}{{ $added = append $added "SYS_ADMIN" }}{{ end }}
{{- $added | join "," }}
{{- end }}

{{- define "roofline-agent.securityContext" -}}
{{- $capabilities := dict "drop" (list "ALL") }}
{{- with include "roofline-agent.capabilities" . }}{{ $_ := set $capabilities "add" (splitList "," .) }}{{ end }}
{{- $own := dict "allowPrivilegeEscalation" false "privileged" false "readOnlyRootFilesystem" true "capabilities" $capabilities }}
{{- if (.Values.gpuAccess).migMonitor }}{{ $own = omit $own "allowPrivilegeEscalation" }}{{ end }}
{{- $given := deepCopy (.Values.securityContext | default dict) }}
{{- if $given.privileged }}{{ $own = omit $own "allowPrivilegeEscalation" }}{{ end }}
{{- toYaml (mergeOverwrite $own $given) }}
{{- end }}

{{/* What Pod Security "restricted" would refuse, each in words; "" if it admits the pod. */}}
{{- define "roofline-agent.exceptions" -}}
{{- $exceptions := list }}
{{- $pod := include "roofline-agent.podSecurityContext" . | fromYaml }}
{{- $container := include "roofline-agent.securityContext" . | fromYaml }}
{{- $uid := dig "runAsUser" ($pod.runAsUser) $container }}
{{- if eq (int $uid) 0 }}{{ $exceptions = append $exceptions "uid 0" }}{{ end }}
{{- if $container.privileged }}{{ $exceptions = append $exceptions "privileged container" }}{{ end }}
{{- if and (not (hasKey $container "allowPrivilegeEscalation")) (not $container.privileged) }}{{ $exceptions = append $exceptions "privilege escalation" }}{{ end }}
{{- range (dig "capabilities" "add" list $container) }}
{{- if ne . "NET_BIND_SERVICE" }}{{ $exceptions = append $exceptions (printf "capability %s" .) }}{{ end }}
{{- end }}
{{- if include "roofline-agent.seesProcesses" . }}{{ $exceptions = append $exceptions "hostPID" }}{{ end }}
{{- if .Values.hostNetwork }}{{ $exceptions = append $exceptions "hostNetwork" }}{{ end }}
{{- if include "roofline-agent.readsPodResources" . }}{{ $exceptions = append $exceptions "hostPath pod-resources" }}{{ end }}
{{- if eq (toString (.Values.gpuAccess).mode) "volumeMounts" }}{{ $exceptions = append $exceptions "hostPath visible-devices" }}{{ end }}
{{- range (.Values.extraVolumes | default list) }}
{{- if .hostPath }}{{ $exceptions = append $exceptions (printf "hostPath %s" .name) }}{{ end }}
{{- end }}
{{- $exceptions | join ", " }}
{{- end }}

{{/* --- the web: one switch for server, probes, Service, monitors and test --- */}}

{{- define "roofline-agent.tls" -}}
{{- if ((.Values.web).tls).enabled }}true{{ end }}
{{- end }}

{{- define "roofline-agent.portName" -}}
{{- ternary "https-metrics" "http-metrics" (eq (include "roofline-agent.tls" .) "true") }}
{{- end }}

{{- define "roofline-agent.scheme" -}}
{{- ternary "https" "http" (eq (include "roofline-agent.tls" .) "true") }}
{{- end }}

{{- define "roofline-agent.certificateSecret" -}}
{{- $tls := (.Values.web).tls | default dict }}
{{- if $tls.secretName }}{{ $tls.secretName }}
{{- else if ($tls.certManager).enabled }}{{ include "roofline-agent.fullname" . }}-tls
{{- else }}{{ fail "web.tls.enabled needs a certificate: name its Secret in web.tls.secretName, or enable web.tls.certManager" }}
{{- end }}
{{- end }}

{{- define "roofline-agent.clientAuth" -}}
{{- if include "roofline-agent.tls" . }}{{ (((.Values.web).tls).clientAuth).type | default "NoClientCert" }}{{ else }}NoClientCert{{ end }}
{{- end }}

{{- define "roofline-agent.serverName" -}}
{{- default (printf "%s.%s.svc" (include "roofline-agent.fullname" .) (include "roofline-agent.namespace" .)) ((((.Values.web).tls).scrape).serverName) }}
{{- end }}

{{/* The name of the Secret that holds the web configuration file; "" when the chart writes it, or none is needed. */}}
{{- define "roofline-agent.webSecret" -}}
{{- $auth := (.Values.web).basicAuth | default dict }}
{{- $name := ($auth.configSecret).name | default "" }}
{{- if and $auth.enabled (not $name) }}{{ fail "web.basicAuth.enabled needs web.basicAuth.configSecret.name: a Secret with the web configuration file, which holds the hashes" }}{{ end }}
{{- $name }}
{{- end }}

{{- define "roofline-agent.webFile" -}}
{{- if include "roofline-agent.webSecret" . -}}
/etc/roofline-agent/web/{{ (((.Values.web).basicAuth).configSecret).key | default "web-config.yml" }}
{{- else if include "roofline-agent.tls" . -}}
/etc/roofline-agent/config/web-config.yml
{{- end }}
{{- end }}

{{- define "roofline-agent.tlsServerConfig" -}}
{{- $tls := (.Values.web).tls | default dict -}}
tls_server_config:
  cert_file: /etc/roofline-agent/tls/tls.crt
  key_file: /etc/roofline-agent/tls/tls.key
  min_version: {{ $tls.minVersion | default "TLS12" }}
{{- $clients := include "roofline-agent.clientAuth" . }}
{{- if ne $clients "NoClientCert" }}
  client_auth_type: {{ $clients }}
  client_ca_file: /etc/roofline-agent/client-ca/{{ (($tls.clientAuth).caSecret).key | default "ca.crt" }}
{{- end }}
{{- end }}

{{- define "roofline-agent.clientCaSecret" -}}
{{- $name := ((((.Values.web).tls).clientAuth).caSecret).name }}
{{- if not $name }}{{ fail "web.tls.clientAuth needs web.tls.clientAuth.caSecret.name: the authority that signed the clients' certificates" }}{{ end }}
{{- $name }}
{{- end }}

{{/* The part of the configuration that holds from a process's start to its end. */}}
{{- define "roofline-agent.web" -}}
{{- $web := dict "listen_address" (printf "%s:%s" ((.Values.web).host | default "") (include "roofline-agent.port" .)) }}
{{- with include "roofline-agent.webFile" . }}{{ $_ := set $web "config_file" . }}{{ end }}
{{- if (.Values.web).enableLifecycle }}{{ $_ := set $web "enable_lifecycle" true }}{{ end }}
{{- toYaml $web }}
{{- end }}

{{/* The configuration file: as given, but for what the chart decides. */}}
{{- define "roofline-agent.config" -}}
{{- $config := deepCopy (.Values.config | default dict) }}
{{- $web := include "roofline-agent.web" . | fromYaml }}
{{- $discovery := dict
  "processes" (dict "enabled" (eq (include "roofline-agent.seesProcesses" .) "true"))
  "kubernetes" (dict "enabled" (eq (include "roofline-agent.watchesPods" .) "true"))
  "pod_resources" (dict "enabled" (eq (include "roofline-agent.readsPodResources" .) "true")) }}
{{- toYaml (mergeOverwrite $config (dict "web" $web "discovery" $discovery)) }}
{{- end }}

{{- define "roofline-agent.configSecret" -}}
{{- (.Values.existingConfigSecret).name | default "" }}
{{- end }}

{{- define "roofline-agent.configFile" -}}
{{- if include "roofline-agent.configSecret" . -}}
/etc/roofline-agent/secret-config/{{ (.Values.existingConfigSecret).key | default "config.yaml" }}
{{- else -}}
/etc/roofline-agent/config/config.yaml
{{- end }}
{{- end }}

{{- define "roofline-agent.podResourcesSocket" -}}
{{- ((((.Values.config).discovery).pod_resources).socket) | default "/var/lib/kubelet/pod-resources/kubelet.sock" }}
{{- end }}

{{/* Whether to make an object of a kind that the cluster may not know. Takes the root, and its apiVersion/kind. */}}
{{- define "roofline-agent.knows" -}}
{{- $root := index . 0 }}
{{- if or (not (dig "capabilityChecks" true (deepCopy (omit $root.Values "global")))) ($root.Capabilities.APIVersions.Has (index . 1)) }}true{{ end }}
{{- end }}

{{/* --- what scrapers are told: an endpoint of a ServiceMonitor or PodMonitor --- */}}

{{- define "roofline-agent.endpoint" -}}
{{- $monitor := .Values.serviceMonitor | default dict }}
{{- $tls := (.Values.web).tls | default dict }}
port: {{ include "roofline-agent.portName" . }}
path: /metrics
scheme: {{ include "roofline-agent.scheme" . }}
{{- with $monitor.interval }}
interval: {{ . }}
{{- end }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
honorLabels: {{ $monitor.honorLabels | default false }}
{{- with $monitor.proxyUrl }}
proxyUrl: {{ . }}
{{- end }}
{{- if include "roofline-agent.tls" . }}
tlsConfig:
  serverName: {{ include "roofline-agent.serverName" . }}
  {{- with ($tls.scrape).caSecret }}
  {{- if .name }}
  ca:
    secret: {name: {{ .name }}, key: {{ .key | default "ca.crt" }}}
  {{- end }}
  {{- end }}
  {{- with ($tls.scrape).clientSecret }}
  {{- if .name }}
  cert:
    secret: {name: {{ .name }}, key: {{ .certKey | default "tls.crt" }}}
  keySecret: {name: {{ .name }}, key: {{ .keyKey | default "tls.key" }}}
  {{- end }}
  {{- end }}
  {{- if ($tls.scrape).insecureSkipVerify }}
  insecureSkipVerify: true
  {{- end }}
{{- end }}
{{- $auth := (.Values.web).basicAuth | default dict }}
{{- if and $auth.enabled (not $monitor.authorization) (not $monitor.oauth2) }}
{{- $secret := include "roofline-agent.scrapeSecret" . }}
basicAuth:
  username: {name: {{ $secret }}, key: {{ ($auth.scrapeSecret).usernameKey | default "username" }}}
  password: {name: {{ $secret }}, key: {{ ($auth.scrapeSecret).passwordKey | default "password" }}}
{{- end }}
{{- with $monitor.authorization }}
authorization:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $monitor.oauth2 }}
oauth2:
  {{- toYaml . | nindent 2 }}
{{- end }}
relabelings:
  - action: replace
    sourceLabels: [__meta_kubernetes_pod_node_name]
    targetLabel: instance
  {{- with $monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "roofline-agent.scrapeSecret" -}}
{{- $name := (((.Values.web).basicAuth).scrapeSecret).name }}
{{- if not $name }}{{ fail "web.basicAuth.enabled needs web.basicAuth.scrapeSecret.name, with which monitors and `helm test` ask" }}{{ end }}
{{- $name }}
{{- end }}

{{- define "roofline-agent.limits" -}}
{{- $monitor := .Values.serviceMonitor | default dict }}
{{- range $key := list "sampleLimit" "targetLimit" "labelLimit" "labelNameLengthLimit" "labelValueLengthLimit" "keepDroppedTargets" }}
{{- with get $monitor $key }}
{{ $key }}: {{ int . }}
{{- end }}
{{- end }}
{{- with $monitor.bodySizeLimit }}
bodySizeLimit: {{ . }}
{{- end }}
{{- with $monitor.podTargetLabels }}
podTargetLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $monitor.attachMetadata }}
attachMetadata:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "roofline-agent.monitorMetadata" -}}
{{- $monitor := .Values.serviceMonitor | default dict }}
name: {{ include "roofline-agent.fullname" . }}
namespace: {{ default (include "roofline-agent.namespace" .) $monitor.namespace }}
labels:
  {{- toYaml (mergeOverwrite (include "roofline-agent.labels" . | fromYaml) ($monitor.labels | default dict)) | nindent 2 }}
{{- with $monitor.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
