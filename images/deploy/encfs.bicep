// An encrypted volume beside an application, in a confidential container group. Values come from encfs.bicepparam or the command
// line; the security policy is generated from the compiled template: bicep build encfs.bicep, then sidecar policy generate.
@description('Name of the container group')
param containerGroupName string = 'aciEncfsSidecar'

@description('Image of the volumes\' sidecar, pinned: REGISTRY/attested-volumes/encfs@sha256:...')
param encfsImage string

@description('Image of the application, pinned')
param applicationImage string

@description('Command of the application; it starts when the volume is there')
param applicationCommand string

@description('Base64 of the sidecar\'s settings')
param encfsSideCarArgs string

@description('Base64 of the security policy')
param ccePolicy string = ''

@description('Full path of the managed identity that may use the vault and read the blob')
param managedIdentity string

param location string = resourceGroup().location

resource group 'Microsoft.ContainerInstance/containerGroups@2023-05-01' = {
  name: containerGroupName
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${managedIdentity}': {}
    }
  }
  properties: {
    osType: 'Linux'
    sku: 'Confidential'
    restartPolicy: 'OnFailure'
    confidentialComputeProperties: {
      ccePolicy: ccePolicy
    }
    containers: [
      {
        name: 'encrypted-filesystem-sidecar-container'
        properties: {
          image: encfsImage
          command: [ '/encfs.sh' ]
          environmentVariables: [
            { name: 'EncfsSideCarArgs', value: encfsSideCarArgs }
            { name: 'LogLevel', value: 'info' }
          ]
          securityContext: { privileged: true }
          volumeMounts: [ { name: 'remotemounts', mountPath: '/mnt/remote' } ]
          resources: { requests: { cpu: 1, memoryInGB: 2 } }
        }
      }
      {
        name: 'application-container'
        properties: {
          image: applicationImage
          command: [ '/bin/sh', '-c', 'until [ -e /mnt/remote/share/. ]; do sleep 1; done; exec ${applicationCommand}' ]
          volumeMounts: [ { name: 'remotemounts', mountPath: '/mnt/remote' } ]
          resources: { requests: { cpu: 1, memoryInGB: 1 } }
        }
      }
    ]
    volumes: [ { name: 'remotemounts', emptyDir: {} } ]
  }
}
