// Parses queries with the grammar that Prometheus and Grafana use in the browser.
// In: a list of queries. Out: for each its tree, a node being [name, children] or [name, text].
const { parser } = require('@prometheus-io/lezer-promql');

function tree(query) {
  const node = ({ name, from, to, firstChild }) => {
    const children = [];
    for (let child = firstChild; child; child = child.nextSibling) children.push(node(child));
    return [name, children.length ? children : query.slice(from, to)];
  };
  return node(parser.parse(query).topNode);
}

const queries = JSON.parse(require('fs').readFileSync(0, 'utf8'));
process.stdout.write(JSON.stringify(queries.map(tree)));
