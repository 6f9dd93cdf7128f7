// What a panel is given to draw: Prometheus's answers, read and transformed by Grafana's own code.
// In: a list of panels, each with its targets, transformations and answers, by refId a list of
// {labels, value}. Out: for each panel its frames, each a list of fields {name, key, type, values}: the
// name is the one that is shown and that matchers and overrides go by, links go by that or by the key.
const Module = require('module');

// Grafana's Prometheus data source asks its runtime for the data sources that exemplars link to; there
// are no exemplars here, and the runtime is a browser's.
const load = Module._load;
Module._load = (name, ...rest) => (name === '@grafana/runtime' ? {} : load(name, ...rest));

const { firstValueFrom } = require('rxjs');
const data = require('@grafana/data');
// The package exports it only together with its editors.
const { transformV2 } = require('./node_modules/@grafana/prometheus/dist/cjs/result_transformer.cjs');

// Set once all is loaded: what is loaded draws if it sees a window; transforming only looks whether there
// is a scene in it.
globalThis.window = {};

const transformers = new Map(Object.values(data.standardTransformers).map((one) => [one.id, one]));
data.standardTransformersRegistry.setInit(() =>
  [...transformers].map(([id, transformer]) => ({ id, name: transformer.name, transformation: async () => transformer }))
);

// As the back end of the data source sends an instant vector: a frame for each series, and where there is
// none one without fields, to say what was asked.
const nothing = (refId) => ({ refId, length: 0, meta: {}, fields: [] });

function frame(refId, { labels, value }) {
  return {
    refId,
    length: 1,
    meta: { custom: { resultType: 'vector' } },
    fields: [
      { name: 'Time', type: 'time', config: {}, values: [1700000000000] },
      { name: 'Value', type: 'number', config: {}, labels, values: [value] },
    ],
  };
}

async function drawn({ targets, transformations, answers }) {
  const unknown = transformations.filter(({ id }) => !transformers.has(id)).map(({ id }) => id);
  if (unknown.length) throw new Error(`no such transformation: ${unknown}`);
  const sent = targets.flatMap(({ refId }) =>
    answers[refId]?.length ? answers[refId].map((series) => frame(refId, series)) : [nothing(refId)]
  );
  const read = transformV2({ data: sent }, { targets }, {}).data;
  const frames = await firstValueFrom(data.transformDataFrame(transformations, read));
  return frames.map((one) =>
    one.fields.map((field) => ({
      name: data.getFieldDisplayName(field, one, frames),
      key: field.name,
      type: field.type,
      values: [...field.values],
    }))
  );
}

const panels = JSON.parse(require('fs').readFileSync(0, 'utf8'));
Promise.all(panels.map(drawn)).then((frames) => process.stdout.write(JSON.stringify(frames)));
