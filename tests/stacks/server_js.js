// SPDX-License-Identifier: Apache-2.0
// A node-opcua server that reads a fault plan (plans.py): node server_js.js MODULES PLAN.json. Says its port on standard output, ends with its
// input, and writes its own record of the services that arrived to RECORD (a JSON object, replaced after each request).
"use strict";
const fs = require("fs");
const path = require("path");

const [modules, planFile] = process.argv.slice(2);
const opcua = require(path.join(modules, "node-opcua"));
const { AttributeIds, DataType, DataValue, NodeId, StatusCodes, VariantArrayType } = opcua;
const plan = JSON.parse(fs.readFileSync(planFile, "utf8"));
const limits = plan.limits || {};
const hardened = plan.hardened !== false;
const record = {};

// What no setting of the stack expresses is given by the node itself, in readAttribute: [type, value] by attribute id.
const TYPES = { 6: "UInt32", 7: "UInt32", 17: "Byte", 18: "Byte", 21: "Boolean", 22: "Boolean", 26: "UInt16", 27: "UInt32" };

function shown(attribute, value) {
  if (attribute === 24 || attribute === 25) {
    const rows = value.map(([role, permissions]) => new opcua.RolePermissionType({ roleId: opcua.resolveNodeId(`i=${role}`), permissions }));
    return new DataValue({ value: { dataType: DataType.ExtensionObject, arrayType: VariantArrayType.Array, value: rows } });
  }
  return new DataValue({ value: { dataType: DataType[TYPES[attribute]], value: TYPES[attribute] === "Boolean" ? Boolean(value) : value } });
}

function show(node, values) {
  const plain = node.readAttribute;
  node.readAttribute = function (context, attribute, ...rest) {
    return attribute in values && !isEngineer(context) ? shown(attribute, values[attribute]) : plain.call(this, context, attribute, ...rest);
  };
}

const isEngineer = (context) => context?.session?.userIdentityToken?.userName === "engineer";
// The stack's own parser of NodeIds cannot tell s=… with any text from other kinds.
function idOf(text) {
  const [, index, kind, value] = /^(?:ns=(\d+);)?([isgb])=(.*)$/s.exec(text);
  const types = { i: opcua.NodeIdType.NUMERIC, s: opcua.NodeIdType.STRING, g: opcua.NodeIdType.GUID, b: opcua.NodeIdType.BYTESTRING };
  return new NodeId(types[kind], kind === "i" ? Number(value) : kind === "b" ? Buffer.from(value, "base64") : value, Number(index || 0));
}

function add(space, one) {
  const nodeId = idOf(one.id);
  const namespace = space.getNamespace(nodeId.namespace);
  const set = one.set || {};
  const options = { nodeId, browseName: { name: one.name, namespaceIndex: nodeId.namespace }, displayName: one.name };
  let node;
  if (one.class === 2) {
    const text = typeof one.value === "string";
    const property = one.reference === 46;
    node = namespace.addVariable({
      ...options, ...(property ? { propertyOf: space.findNode(idOf(one.parent)) } : { typeDefinition: "BaseDataVariableType" }),
      dataType: text ? "String" : "Double", value: { dataType: text ? DataType.String : DataType.Double, value: one.value ?? 0 },
    });
    const level = 17 in set ? set[17] : 18 in set ? set[18] : 1;
    node.accessLevel = opcua.makeAccessLevelFlag(level);
    node.userAccessLevel = node.accessLevel;
    node.isUserWritable = (context) => one.lies || isEngineer(context) || Boolean((18 in set ? set[18] : 1) & 2);
    if (!(18 in set)) set[18] = 1;
  } else if (one.class === 4) {
    const parent = space.findNode(idOf(one.parent));
    node = namespace.addMethod(parent, { ...options, inputArguments: [], outputArguments: [] });
    node.bindMethod((inputs, context, callback) => callback(null, { statusCode: StatusCodes.Good, outputArguments: [] }));
    if (!(22 in set)) set[22] = false;
  } else {
    node = namespace.addObject({ ...options, typeDefinition: "FolderType" });
  }
  if (one.class !== 4 && one.reference !== 46 && !one.unlinked) link(space, one.parent, one.reference ?? 47, one.id);
  show(node, set);
}

function link(space, source, type, target) {
  space.findNode(idOf(source)).addReference({ referenceType: opcua.resolveNodeId(`i=${type}`), isForward: true, nodeId: idOf(target) });
}

async function main() {
  const manager = new opcua.OPCUACertificateManager({ rootFolder: path.join(path.dirname(planFile), "pki-" + process.pid), automaticallyAcceptUnknownCertificate: Boolean(plan.auto_trust) });
  await manager.initialize();
  await manager.trustCertificate(fs.readFileSync(plan.trusted_der));
  const policies = [...new Set(plan.endpoints.map(([policy]) => policy))];
  const modes = [...new Set(plan.endpoints.map(([, mode]) => mode))];
  const server = new opcua.OPCUAServer({
    port: plan.port, host: "127.0.0.1", hostname: "127.0.0.1", certificateFile: plan.certificate_pem, privateKeyFile: plan.key_pem,
    serverCertificateManager: manager, userCertificateManager: manager, allowAnonymous: Boolean(plan.anonymous), isAuditing: true,
    securityPolicies: policies.map((one) => opcua.SecurityPolicy[one]), securityModes: modes.map((one) => opcua.MessageSecurityMode[one]),
    serverInfo: { applicationUri: plan.uri, productUri: "urn:test" }, disableDiscovery: true,
    userManager: {
      isValidUser: (name, password) => (name === "observer" && password === "secret") || (name === "engineer" && password === "e-secret"),
      getUserRoles: (name) => (name === "engineer" ? [opcua.WellKnownRoles.AuthenticatedUser, opcua.WellKnownRoles.Engineer] : [opcua.WellKnownRoles.AuthenticatedUser, opcua.WellKnownRoles.Observer]),
    },
    serverCapabilities: {
      maxSessions: limits.sessions || 20, maxBrowseContinuationPoints: limits.points || 100,
      operationLimits: { maxNodesPerRead: limits.read || 0, maxNodesPerBrowse: limits.browse || 0 },
    },
  });
  await server.initialize();
  const space = server.engine.addressSpace;
  // The first registered namespace would be 2: the stack's own is 1.
  for (const uri of plan.namespaces) space.registerNamespace(uri);
  for (const one of plan.nodes) add(space, one);
  for (const [source, type, target] of plan.references) link(space, source, type, target);
  if (hardened)
    for (const node of space.getNamespace(0).nodeIterator())
      if (node.nodeClass === opcua.NodeClass.Method) show(node, { 22: false });
      else if (node.nodeClass === opcua.NodeClass.Variable) node.userAccessLevel = opcua.makeAccessLevelFlag("CurrentRead");
  if (limits.references) {
    const plain = server._on_BrowseRequest;
    server._on_BrowseRequest = function (message, channel) {
      message.request.requestedMaxReferencesPerNode = Math.min(message.request.requestedMaxReferencesPerNode || limits.references, limits.references);
      return plain.call(this, message, channel);
    };
  }
  if (plan.clear_password)
    for (const endpoint of server.endpoints) {
      for (const description of endpoint.endpointDescriptions())
        for (const token of description.userIdentityTokens)
          if (token.tokenType === opcua.UserTokenType.UserName) token.securityPolicyUri = opcua.SecurityPolicy.None;
    }
  server.on("request", (request) => {
    const name = request.schema.name.replace(/Request$/, "");
    record[name] = (record[name] || 0) + 1;
    if (plan.record) {
      fs.writeFileSync(plan.record + ".new", JSON.stringify(record));
      fs.renameSync(plan.record + ".new", plan.record);
    }
  });
  await server.start();
  // As server_c: the plan's first node goes and comes again, sessions are counted.
  process.stdin.on("data", (orders) => {
    for (const order of orders.toString()) {
      if (order === "d") space.deleteNode(idOf(plan.nodes[0].id));
      if (order === "a") add(space, plan.nodes[0]);
      if (order === "s") console.log(JSON.stringify({ sessions: server.engine.currentSessionCount }));
    }
  });
  process.stdin.on("end", () => process.exit(0));
  console.log(JSON.stringify({ port: plan.port }));
}

main().catch((error) => {
  console.error(error);
  process.exit(2);
});
