// cosmos.js PORT: the emulator of Cosmos DB over plain HTTP, with what it does not do as the service
// does: its account names this server, '//dbs' is '/dbs', and a missing document is a 404.
const {createHttpServer} = require('@vercel/cosmosdb-server');

const port = Number(process.argv[2]);
const server = createHttpServer();
const [answer] = server.listeners('request');

server.removeAllListeners('request');
server.on('request', (request, response) => {
  request.url = request.url.replace(/^\/\//, '/');
  if (request.url === '/') {
    const here = [{name: 'local', databaseAccountEndpoint: `http://127.0.0.1:${port}`}];
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({
      id: 'local',
      _rid: 'local',
      writableLocations: here,
      readableLocations: here,
      userConsistencyPolicy: {defaultConsistencyLevel: 'Session'},
      _dbs: '//dbs/',
      media: '//media/',
      addresses: '//addresses/',
    }));
    return;
  }
  if (request.method === 'GET' && request.url.includes('/docs/')) {
    request.headers['x-ms-documentdb-query-enablecrosspartition'] = 'true';
  }
  answer(request, response);
});
server.listen(port, '127.0.0.1');
