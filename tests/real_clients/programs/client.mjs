// Steps with Arize's JavaScript client: a step per line of standard input, what came of it per line of standard output.
import { createInterface } from "node:readline";
import {
  cancelTaskRun, createClient, getTask, getTaskRun, listSpaces, listTaskRuns, listTasks, triggerTaskRun, waitForTaskRun,
} from "@arizeai/ax-client";

async function everyPage(read) {
  const found = [];
  let cursor, pages = 0;
  do {
    const page = await read(cursor);
    found.push(...page.data);
    pages += 1;
    cursor = page.pagination.nextCursor;
  } while (cursor);
  return { pages, data: found };
}

const steps = {
  spaces: (client) => everyPage((cursor) => listSpaces({ client, limit: 1, cursor })),
  tasks: (client, { limit, ...filters }) => everyPage((cursor) => listTasks({ client, limit, cursor, ...filters })),
  task: (client, { task, space }) => getTask({ client, task, space }),
  runs: (client, { task, limit, status }) =>
    everyPage((cursor) => listTaskRuns({ client, task, status, limit, cursor })),
  run: (client, { run }) => getTaskRun({ client, runId: run }),
  wait: (client, { run, timeout }) =>
    waitForTaskRun({ client, runId: run, pollInterval: 200, timeout: timeout * 1000 }),
  cancel: (client, { run }) => cancelTaskRun({ client, runId: run }),
  trigger: (client, { task, data_start_time: from, data_end_time: to, max_spans: maxSpans }) =>
    triggerTaskRun({ client, task, dataStartTime: from && new Date(from), dataEndTime: to && new Date(to), maxSpans }),
};

async function outcome(step) {
  const client = createClient({ apiKey: step.key, baseUrl: `http://${step.host}:${step.port}` });
  try {
    return { result: await steps[step.do](client, step.with) };
  } catch (error) {
    return { error: { kind: error.name, status: error.statusCode ?? null, text: error.message } };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const step = JSON.parse(line);
  process.stdout.write(JSON.stringify({ number: step.number, ...(await outcome(step)) }) + "\n");
}
