# The same as bootstrap.sh for Windows PowerShell 5.1 and PowerShell 7: installs bnbenv into an environment of its own,
# and in DIR (default: the current folder) runs "bnbenv init" if there is no bnbenv.toml, then "bnbenv sync". It asks
# nothing, can be run again at any time, and completes what a run left that was ended. It has never been run: on the
# machines where bnbenv is developed there is no PowerShell, and a test only parses this file.
#
# usage: powershell -ExecutionPolicy Bypass -File bootstrap.ps1 [DIR] [--prefix FOLDER] [--tool-only] [options of sync]
#   --prefix FOLDER   where bnbenv itself is installed (default: .tool in a checkout, else bnbenv\tool in LOCALAPPDATA)
#   --tool-only       install bnbenv and make no environment
# BNBENV_INSTALL, BNBENV_PYTHON and BNBENV_FACTS are those of bootstrap.sh; indexes, proxies and certificates those that
# pip is set up with (PIP_*, pip.ini, HTTPS_PROXY, NO_PROXY). The exit codes are those of bnbenv.
& { # parsed to the end before anything is run
    $ErrorActionPreference = 'Stop'
    $state = @{ Code = 0; Here = $PSScriptRoot; File = $PSCommandPath }

    function Stop-Here([int]$Code, [string]$Sentence, [string]$Next) {
        [Console]::Error.WriteLine("error: $Sentence")
        if ($Next) { [Console]::Error.WriteLine("next: $Next") }
        $state.Code = $Code
        throw [System.OperationCanceledException]::new('bootstrap')
    }

    # The path of a 64-bit CPython 3.10 or newer. The store's python.exe, which is none, fails the probe.
    function Find-Python {
        $ErrorActionPreference = 'SilentlyContinue'
        $probe = 'import sys; sys.version_info[:2] >= (3, 10) and sys.maxsize > 2**32 and print(sys.executable)'
        $names = if ($env:BNBENV_PYTHON) { @($env:BNBENV_PYTHON) } else { @('python', 'python3', 'py') }
        foreach ($name in $names) {
            if (-not (Get-Command $name)) { continue }
            $found = & $name -I -c $probe 2>$null
            if ($LASTEXITCODE -eq 0 -and $found) { return [string]$found }
        }
    }

    function Install-Tool([string]$Prefix, [string[]]$What, [string]$Stamp) {
        $marker = Join-Path $Prefix '.bnbenv-tool'
        $python = Join-Path $Prefix 'Scripts\python.exe'
        $held = (Test-Path $Prefix) -and @(Get-ChildItem -Force $Prefix).Count -gt 0
        if ($held -and -not (Test-Path $marker)) {
            Stop-Here 2 "$Prefix holds something else than bnbenv" 'Name another folder with --prefix.'
        }
        $done = if (Test-Path $marker) { [string](Get-Content -Raw $marker) } else { '' }
        if ($Stamp -and $done.Trim() -eq $Stamp -and (Test-Path (Join-Path $Prefix 'Scripts\bnbenv.exe'))) { return }
        [Console]::Error.WriteLine("bootstrap: installing bnbenv into $Prefix")
        if (-not $done.Trim()) {
            # What was never finished is made anew.
            $left = if ($held) { Get-ChildItem -Force $Prefix | Where-Object Name -ne '.bnbenv-tool' }
            $left | Remove-Item -Recurse -Force
            $base = Find-Python
            if (-not $base) {
                Stop-Here 1 'no 64-bit Python 3.10 or newer was found' `
                    'Install one (winget install --exact --id Python.Python.3.12), or name one in BNBENV_PYTHON.'
            }
            $null = New-Item -ItemType Directory -Force $Prefix
            Set-Content -Path $marker -Value ''
            & $base -I -m venv $Prefix | Out-Host
            if ($LASTEXITCODE -ne 0) { Stop-Here 1 "$base cannot make a virtual environment" 'Install Python anew.' }
        }
        Set-Content -Path $marker -Value ''
        $index = $env:PIP_INDEX_URL
        if (-not $index -and $env:UV_DEFAULT_INDEX) { $env:PIP_INDEX_URL = $env:UV_DEFAULT_INDEX }
        & $python -I -m pip install --quiet --no-input --disable-pip-version-check @What | Out-Host
        $code = $LASTEXITCODE
        $env:PIP_INDEX_URL = $index
        if ($code -ne 0) {
            Stop-Here 7 "the packages could not be installed (pip's own words are above)" `
                "Check the network, HTTPS_PROXY and pip's configuration (pip config list), then run this again."
        }
        Set-Content -Path $marker -Value $Stamp
    }

    function Invoke-Bootstrap([string[]]$Words) {
        $dir = '.'; $prefix = ''; $toolOnly = $false; $rest = @()
        for ($n = 0; $n -lt $Words.Count; $n++) {
            switch ($Words[$n]) {
                '--prefix' { $n++; $prefix = [string]$Words[$n] }
                '--tool-only' { $toolOnly = $true }
                default { $rest += $Words[$n] }
            }
        }
        if ($rest.Count -gt 0 -and -not $rest[0].StartsWith('-')) {
            $dir = $rest[0]
            $rest = @($rest | Select-Object -Skip 1)
        }
        $what = @($(if ($env:BNBENV_INSTALL) { $env:BNBENV_INSTALL } else { 'bnbenv' }))
        $stamp = $what[0]
        $userData = if ($env:BNBENV_HOME) { $env:BNBENV_HOME } else { Join-Path $env:LOCALAPPDATA 'bnbenv' }
        $place = Join-Path $userData 'tool'
        $repo = if ($state.Here) { Split-Path -Parent $state.Here } else { '' }
        if (-not $env:BNBENV_INSTALL -and $repo -and (Test-Path (Join-Path $repo 'pyproject.toml'))) {
            $place = Join-Path $repo '.tool'
            $what = if ($prefix) { @($repo) } else { @('--editable', $repo) }
            $stamp = if ($prefix) { '' } else { (Get-FileHash (Join-Path $repo 'pyproject.toml')).Hash }
        }
        elseif ($stamp -match '[\\/]' -and (Test-Path $stamp -PathType Container)) { $stamp = '' }
        elseif ($stamp -match '\.whl$' -and (Test-Path $stamp)) { $stamp = (Get-FileHash $stamp).Hash }
        elseif ($stamp -match '://.*@') { $stamp = '' } # an address can hold a password
        if ($prefix) { $place = $prefix }
        Install-Tool $place $what $stamp
        $bnbenv = Join-Path $place 'Scripts\bnbenv.exe'
        if ($toolOnly) { return }
        $null = New-Item -ItemType Directory -Force $dir
        if (-not (Test-Path (Join-Path $dir 'bnbenv.toml'))) {
            $null = & $bnbenv init --project $dir
            if ($LASTEXITCODE -ne 0) { $state.Code = $LASTEXITCODE; return }
        }
        & $bnbenv sync --project $dir @rest | Out-Host
        $state.Code = $LASTEXITCODE
    }

    try { Invoke-Bootstrap @($args) }
    catch [System.OperationCanceledException] { $null = $_ }
    catch {
        [Console]::Error.WriteLine("error: $($_.Exception.Message)")
        $state.Code = 1
    }
    if ($state.File) { exit $state.Code }
    $global:LASTEXITCODE = $state.Code
} @args
