// What the operators' own schemas find wrong in a list of objects: a list of texts.
import {readFileSync} from "node:fs";

const modules = {
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  "cert-manager.io/v1": "@kubernetes-models/cert-manager/cert-manager.io/v1",
  "autoscaling.k8s.io/v1": "@kubernetes-models/autoscaler/autoscaling.k8s.io/v1",
  "grafana.integreatly.org/v1beta1": "@kubernetes-models/grafana-operator/grafana.integreatly.org/v1beta1",
};

const problems = [];
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const {apiVersion, kind, ...rest} = object;
  const models = await import(modules[apiVersion]);
  try {
    new models[kind](rest).validate();
  } catch (error) {
    problems.push(`${kind} ${object.metadata.name}: ${error.message}`);
  }
}
process.stdout.write(JSON.stringify(problems));
