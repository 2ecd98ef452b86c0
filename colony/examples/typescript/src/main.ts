import { log } from "./desk.js";
import { serve } from "./server.js";
import { load, Misconfigured, type Settings } from "./settings.js";

function start(): void {
  let settings: Settings;
  try {
    settings = load(process.env);
  } catch (error) {
    if (!(error instanceof Misconfigured)) throw error;
    process.stderr.write(`colony: ${error.message}\n`);
    process.exit(2);
  }
  const { host, port } = settings;
  const server = serve(settings);
  server.on("error", (error) => {
    process.stderr.write(`colony: PORT ${port} on ${host} cannot be listened on: ${error.code ?? error.message}.\n`);
    process.exit(2);
  });
  server.listen(port, host, () => log("listening", { host, port }));
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      server.close(() => process.exit(0));
      server.closeIdleConnections();
      setTimeout(() => process.exit(0), 1_000); // what is unfinished the root dispatches again
    });
  }
}

start();
