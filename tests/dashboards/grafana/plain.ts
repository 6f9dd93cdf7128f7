// Grafana's types as JSON has them: an enum is the values of its members.
// And what Grafana's schema leaves open, by panel type and for the Prometheus data source.

import type { AnnotationQuery, Dashboard, FieldConfigSource, Panel, RowPanel, Threshold } from '@grafana/schema';
import type * as BarGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as Heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as StateTimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as Table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as Text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as TimeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type * as XYChart from '@grafana/schema/dist/esm/raw/composable/xychart/panelcfg/x/XYChartPanelCfg_types.gen';

// The schema says of a threshold's value: "Nulls currently appear here when serializing -Infinity to JSON."
type Plain<T> = 0 extends 1 & T
  ? T
  : T extends Threshold
    ? { color: string; value: number | null }
  : T extends string
    ? `${T}`
    : T extends ReadonlyArray<infer One>
      ? Array<Plain<One>>
      : T extends object
        ? { [Key in keyof T]: Plain<T[Key]> }
        : T;

interface Kinds {
  bargauge: { options: BarGauge.Options; custom: object };
  heatmap: { options: Heatmap.Options; custom: Heatmap.FieldConfig };
  stat: { options: Stat.Options; custom: object };
  'state-timeline': { options: StateTimeline.Options; custom: StateTimeline.FieldConfig };
  table: { options: Table.Options; custom: Table.FieldConfig };
  text: { options: Text.Options; custom: object };
  timeseries: { options: TimeSeries.Options; custom: TimeSeries.FieldConfig };
  xychart: { options: XYChart.Options; custom: XYChart.FieldConfig };
}
export type Kind = keyof Kinds;

interface Query {
  datasource: { type: 'prometheus'; uid: string };
  editorMode: 'code';
  expr: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  legendFormat: string;
  range: boolean;
  refId: string;
}

// As Grafana has it, where a board may leave out what has a default.
type Defaulted<T> = Plain<Partial<T>>;
type Custom<K extends Kind> = Plain<Kinds[K]['custom']>;

export type PanelOf<K extends Kind> = Omit<Plain<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: K;
  options: Plain<Kinds[K]['options']>;
} & (K extends 'text'
    ? object
    : {
        fieldConfig: Omit<Plain<FieldConfigSource>, 'defaults'> & {
          defaults: Omit<Plain<FieldConfigSource['defaults']>, 'custom'> & { custom: Custom<K> };
        };
        targets: Query[];
      });

// What an override says of a panel type's own fields, as `custom.NAME`.
export type Overridden<K extends Kind> = Partial<Custom<K>>;

export type RowOf = Omit<Plain<RowPanel>, 'panels'> & { panels: unknown[] };

type Event = Plain<Omit<AnnotationQuery, 'target'>> & {
  target?: { expr: string; refId: string; interval: string };
  tagKeys?: string;
  textFormat?: string;
  titleFormat?: string;
  useValueForTime?: boolean;
};

type Variables = NonNullable<Dashboard['templating']>['list'];

export type Board = Omit<Defaulted<Dashboard>, 'panels' | 'annotations' | 'templating'> & {
  annotations: { list: Event[] };
  panels: unknown[];
  templating: { list: Array<Plain<NonNullable<Variables>[number]> & { definition?: string; filters?: []; baseFilters?: [] }> };
};
