// What of Node this colony uses, so that it depends on no package of types.

declare module "node:crypto" {
  interface Digest {
    update(data: string | Uint8Array): Digest;
    digest(encoding: "hex"): string;
    digest(): Uint8Array;
  }
  export function createHash(algorithm: "sha256"): Digest;
  export function createHmac(algorithm: "sha256", key: string | Uint8Array): Digest;
  export function randomBytes(size: number): { toString(encoding: "base64url" | "hex"): string };
  export function randomUUID(): string;
  export function timingSafeEqual(one: Uint8Array, other: Uint8Array): boolean;
}

declare module "node:http" {
  export interface IncomingMessage extends AsyncIterable<Uint8Array> {
    method?: string;
    url?: string;
    headers: Record<string, string | string[] | undefined>;
  }
  export interface ServerResponse {
    headersSent: boolean;
    writeHead(status: number, headers: Record<string, string | number>): ServerResponse;
    end(body?: string | Uint8Array): void;
  }
  export interface Server {
    listen(port: number, host: string, listening: () => void): Server;
    on(event: "error", listener: (error: Error & { code?: string }) => void): Server;
    close(closed?: () => void): void;
    closeIdleConnections(): void;
  }
  export function createServer(
    options: { requestTimeout: number; headersTimeout: number },
    listener: (request: IncomingMessage, response: ServerResponse) => void,
  ): Server;
}

declare module "node:fs" {
  export function readFileSync(path: URL, encoding: "utf8"): string;
}

declare const process: {
  env: Record<string, string | undefined>;
  exit(code: number): never;
  on(event: "SIGTERM" | "SIGINT", listener: () => void): void;
  stderr: { write(text: string): void };
};
