// The OpenAPI document of `GET /rest/v1/`, generated from pg_catalog as PostgREST generates it.

const COLUMNS = `
  select c.relname as table_name, obj_description(c.oid, 'pg_class') as table_description,
         a.attname as name,
         format_type(case when t.typtype = 'd' and b.typnamespace = 'pg_catalog'::regnamespace then b.oid
                          else a.atttypid end, null) as format,
         nullif(information_schema._pg_char_max_length(a.atttypid, a.atttypmod), -1) as max_length,
         a.attnotnull or (t.typtype = 'd' and t.typnotnull) as not_null,
         case
           when a.attidentity <> '' then
             format('nextval(%L)', pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname))
           when a.attgenerated <> '' then null
           else pg_get_expr(d.adbin, d.adrelid)
         end as default_value,
         col_description(c.oid, a.attnum) as description,
         exists (select from pg_constraint k
                 where k.conrelid = c.oid and k.contype = 'p' and a.attnum = any (k.conkey)) as is_key,
         (select json_build_object('table', r.relname, 'column', ra.attname)
            from pg_constraint k
            join pg_class r on r.oid = k.confrelid
            join pg_attribute ra on ra.attrelid = r.oid and ra.attnum = k.confkey[1]
           where k.conrelid = c.oid and k.contype = 'f' and k.conkey = array[a.attnum]
           order by k.conname limit 1) as reference,
         (select json_agg(e.enumlabel order by e.enumsortorder) from pg_enum e
           where e.enumtypid = coalesce(nullif(t.typbasetype, 0), t.oid)) as labels
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
    left join pg_type b on b.oid = t.typbasetype
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
   where n.nspname = $2 and c.relkind in ('r', 'v', 'm', 'f', 'p') and not c.relispartition
     and (has_table_privilege($1, c.oid, 'select, insert, update, delete')
          or has_any_column_privilege($1, c.oid, 'select, insert, update'))
   order by c.relname, a.attnum`;

const FUNCTIONS = `
  select p.proname as name, obj_description(p.oid, 'pg_proc') as description, p.provolatile as volatility,
         coalesce((select json_agg(json_build_object(
                     'name', coalesce(p.proargnames[i], ''),
                     'format', format_type(p.proargtypes[i - 1], null),
                     'required', i <= p.pronargs - p.pronargdefaults) order by i)
                     from generate_series(1, p.pronargs) as i), '[]') as arguments
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
   where n.nspname = $2 and p.prokind = 'f'
     and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
     and has_function_privilege($1, p.oid, 'execute')
   order by p.proname`;

const TYPES = {
  boolean: "boolean",
  smallint: "integer",
  integer: "integer",
  bigint: "integer",
  numeric: "number",
  real: "number",
  "double precision": "number",
  json: undefined,
  jsonb: undefined,
};

const MEDIA = [
  "application/json",
  "application/vnd.pgrst.object+json;nulls=stripped",
  "application/vnd.pgrst.object+json",
  "text/csv",
];

const typeOf = (format) => (format in TYPES ? TYPES[format] : format.endsWith("[]") ? "array" : "string");
const ref = (name) => ({ $ref: `#/parameters/${name}` });
const query = (name, description) => ({ name, description, required: false, in: "query", type: "string" });

function described(format) {
  const type = typeOf(format);
  if (type === "array") return { format, items: { type: typeOf(format.slice(0, -2)) }, type };
  return type === undefined ? { format } : { format, type };
}

/** A column's default as PostgREST shows it: strings bare, anything else only if it is JSON. */
function defaultOf({ format, default_value: text }) {
  if (text === null) return undefined;
  if (typeOf(format) === "string") {
    const cast = `::${format}`;
    return text.endsWith(cast) ? text.slice(0, -cast.length).replace(/^'+|'+$/g, "") : text;
  }
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function noteOf({ description, is_key: isKey, reference }) {
  const notes = [];
  if (isKey) notes.push("This is a Primary Key.<pk/>");
  if (reference) {
    const { table, column } = reference;
    notes.push(`This is a Foreign Key to \`${table}.${column}\`.<fk table='${table}' column='${column}'/>`);
  }
  if (notes.length === 0) return description ?? undefined;
  return `${description ? `${description}\n\n` : ""}${["Note:", ...notes].join("\n")}`;
}

function propertyOf(column) {
  return {
    default: defaultOf(column),
    description: noteOf(column),
    enum: column.labels ?? undefined,
    ...described(column.format),
    maxLength: column.max_length ?? undefined,
  };
}

function definitionOf(columns) {
  const required = columns.filter((column) => column.not_null).map((column) => column.name);
  return {
    description: columns[0].table_description ?? undefined,
    required: required.length > 0 ? required : undefined,
    properties: Object.fromEntries(columns.map((column) => [column.name, propertyOf(column)])),
    type: "object",
  };
}

function tablePath(name, columns) {
  const filters = columns.map((column) => ref(`rowFilter.${name}.${column.name}`));
  const reading = [...filters, ...["select", "order", "range", "rangeUnit", "offset", "limit", "preferCount"].map(ref)];
  const gone = { 204: { description: "No Content" } };
  const rows = { type: "array", items: { $ref: `#/definitions/${name}` } };
  const found = { 200: { description: "OK", schema: rows }, 206: { description: "Partial Content" } };
  const changing = [...filters, ref(`body.${name}`), ref("preferReturn")];
  const posting = [ref(`body.${name}`), ref("select"), ref("preferPost")];
  return {
    get: { tags: [name], parameters: reading, responses: found },
    post: { tags: [name], parameters: posting, responses: { 201: { description: "Created" } } },
    delete: { tags: [name], parameters: [...filters, ref("preferReturn")], responses: gone },
    patch: { tags: [name], parameters: changing, responses: gone },
  };
}

function functionPath({ name, description, volatility, arguments: args }) {
  const required = args.filter((arg) => arg.required).map((arg) => arg.name);
  const schema = {
    description: description ?? undefined,
    required: required.length > 0 ? required : undefined,
    properties: Object.fromEntries(args.map((arg) => [arg.name, described(arg.format)])),
    type: "object",
  };
  const common = { tags: [`(rpc) ${name}`], summary: description ?? undefined, produces: MEDIA.slice(0, 3) };
  const responses = { 200: { description: "OK" } };
  const body = { required: true, schema, in: "body", name: "args" };
  const path = { post: { ...common, parameters: [body, ref("preferParams")], responses } };
  if (volatility !== "v") {
    const parameters = args.map((arg) => ({ ...described(arg.format), name: arg.name, in: "query", required: arg.required }));
    path.get = { ...common, parameters, responses };
  }
  return path;
}

function parametersOf(tables) {
  const header = (name, choices) => ({ name, required: false, in: "header", type: "string", enum: choices });
  const returning = ["return=representation", "return=minimal", "return=none"];
  const all = {
    preferParams: header("Prefer", ["params=single-object"]),
    preferReturn: header("Prefer", returning),
    preferCount: header("Prefer", ["count=none"]),
    preferPost: header("Prefer", [...returning, "resolution=ignore-duplicates", "resolution=merge-duplicates"]),
    select: query("select", "Filtering Columns"),
    on_conflict: query("on_conflict", "On Conflict"),
    order: query("order", "Ordering"),
    range: { ...header("Range"), description: "Limiting and Pagination" },
    rangeUnit: { ...header("Range-Unit"), description: "Limiting and Pagination", default: "items" },
    offset: query("offset", "Limiting and Pagination"),
    limit: query("limit", "Limiting and Pagination"),
  };
  for (const [name, columns] of tables) {
    const schema = { $ref: `#/definitions/${name}` };
    all[`body.${name}`] = { name, description: name, required: false, in: "body", schema };
    for (const column of columns) {
      all[`rowFilter.${name}.${column.name}`] = { name: column.name, required: false, in: "query", type: "string" };
    }
  }
  return all;
}

/** The Swagger 2.0 document of what `role` may use in `schema`; `sql` is the driver, `host` the API's own. */
export async function openapi(sql, role, schema, host) {
  const [columns, functions] = await Promise.all([sql.unsafe(COLUMNS, [role, schema]), sql.unsafe(FUNCTIONS, [role, schema])]);
  const tables = [...Map.groupBy(columns, (column) => column.table_name)];
  const paths = { "/": { get: { tags: ["Introspection"], summary: "OpenAPI description (this document)" } } };
  for (const [name, own] of tables) paths[`/${name}`] = tablePath(name, own);
  for (const one of functions) paths[`/rpc/${one.name}`] = functionPath(one);
  return {
    swagger: "2.0",
    info: { description: "", title: `standard ${schema} schema`, version: "14.1" },
    host,
    basePath: "/",
    schemes: ["http"],
    consumes: MEDIA,
    produces: MEDIA,
    paths,
    definitions: Object.fromEntries(tables.map(([name, own]) => [name, definitionOf(own)])),
    parameters: parametersOf(tables),
  };
}
